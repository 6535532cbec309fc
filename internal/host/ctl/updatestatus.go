// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/release"
)

// UpdateStatus prints how the machine's updates fare.
func (c *CLI) UpdateStatus(ctx context.Context) error {
	_, u, err := c.update(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return c.printMessage(u)
	}
	fmt.Fprint(c.Out, c.updateScreen(u))
	return nil
}

// UpdateHistory prints what was tried, and how it ended.
func (c *CLI) UpdateHistory(ctx context.Context, limit uint32) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	res, err := unary(ctx, api.Updates.ListUpdates, &wherryv1.ListUpdatesRequest{Limit: limit})
	if err != nil {
		return c.updateError(err)
	}
	if c.JSON {
		return printList(c, res.Updates)
	}
	var rows [][]string
	for _, r := range res.Updates {
		down := ""
		if r.Downtime != nil {
			down = tenths(r.Downtime.AsDuration())
		}
		rows = append(rows, []string{localTime(r.StartedAt), r.From, r.To, r.State, down, sizes(r), r.Source, firstLine(r.Reason)})
	}
	if err := table(c.Out, "STARTED\tFROM\tTO\tRESULT\tDOWN\tFETCHED\tSOURCE\tREASON", rows); err != nil {
		return err
	}
	for _, r := range res.Updates {
		if more := historyDetails(r); more != "" {
			fmt.Fprintf(c.Out, "\n%s → %s, %s\n%s", r.From, r.To, localTime(r.StartedAt), more)
		}
	}
	return nil
}

// historyDetails is what does not fit into a row: why there was no delta, and what the trial found.
func historyDetails(r *wherryv1.UpdateRecord) string {
	var b strings.Builder
	if r.DeltaRefused != "" {
		fmt.Fprintf(&b, "  not as a delta: %s\n", indented(r.DeltaRefused))
	}
	var well []string
	for _, k := range r.Checks {
		switch {
		case k.State == "failed":
			fmt.Fprintf(&b, "  failed: %s\n", because(k.Name, indented(k.Message)))
		case k.Message != "":
			well = append(well, k.Name+" ("+firstLine(k.Message)+")")
		default:
			well = append(well, k.Name)
		}
	}
	if len(well) > 0 {
		fmt.Fprintf(&b, "  well: %s\n", strings.Join(well, ", "))
	}
	return b.String()
}

// indented are lines that stand below something.
func indented(s string) string { return strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n    ") }

func (c *CLI) updateScreen(u *wherryv1.GetUpdateResponse) string {
	var rows [][]string
	row := func(name, text string) {
		if text != "" {
			rows = append(rows, []string{name, text})
		}
	}
	row("Release", u.Version+trustText(u.Trust))
	row("Update", c.updateLine(u))
	row("Policy", policyText(u.Policy))
	row("Trusts", rootText(u))
	row("Paused", pauseText(u))
	row("Checked", c.checkText(u))
	row("Window", windowText(u))
	row("Trial", trialText(u.Trial))
	if u.Returning != nil {
		row("Waits", "until all is as before the update"+waitText(u.Returning, true))
	}
	if u.Last != nil && u.Last.EndedAt == nil {
		row("Attempt", c.lastText(u.Last))
	} else {
		row("Last", c.lastText(u.Last))
	}
	row("Avoids", avoidText(u))
	name := "Slots"
	for _, s := range u.Slots {
		rows = append(rows, []string{name, slotText(s)})
		name = ""
	}
	var b strings.Builder
	_ = table(&b, "", rows) // a strings.Builder takes everything
	return strings.TrimLeft(b.String(), "\n")
}

// updateLine sums up in one line what matters most.
func (c *CLI) updateLine(u *wherryv1.GetUpdateResponse) string {
	switch {
	case u.Unavailable != "":
		return "not possible here: " + u.Unavailable
	case u.Phase == phaseStaged && u.Last.GetEndedAt() == nil && u.Last.GetSource() == "by hand": // what keeps the machine from it does not matter any more
		return u.Target + " is staged, and the next restart tries it"
	case u.Phase == phaseStaged:
		return because(u.Target+" is staged, and the next restart tries it", u.Why)
	case u.Phase != "" && u.Phase != phaseIdle:
		return progressText(progressOf(u))
	case c.left(u) != "" && u.Offer != nil:
		return c.left(u) + "; " + offerText(u.Offer)
	case c.left(u) != "":
		return c.left(u)
	case u.Offer != nil:
		return because(offerText(u.Offer), u.Why)
	case u.CheckError != "":
		return "the last check went wrong: " + firstLine(u.CheckError)
	case u.Policy.GetUrl() == "":
		return "no repository is configured (updates.url)"
	}
	return because("none", u.Why)
}

// left says which release the machine went back from the last time, as long as it
// runs the one before; empty: none.
func (c *CLI) left(u *wherryv1.GetUpdateResponse) string {
	if u.Last.GetEndedAt() == nil || u.Last.State == stateCommitted {
		return ""
	}
	left, back := u.Last.To, u.Last.From
	if u.Last.Source == sourceRollback {
		left, back = back, left
	}
	switch {
	case back != u.Version:
		return ""
	case u.Last.ByHand && u.Offer != nil:
		return fmt.Sprintf("somebody went back from %s %s", left, c.ago(u.Last.EndedAt))
	case u.Last.ByHand:
		return fmt.Sprintf("somebody went back from %s %s: %s", left, c.ago(u.Last.EndedAt), release.UntilNewer)
	}
	return because(fmt.Sprintf("%s did not work %s", left, c.ago(u.Last.EndedAt)), firstLine(u.Last.Reason))
}

const sourceRollback = "rollback"

// avoidText names what is left alone, and why.
func avoidText(u *wherryv1.GetUpdateResponse) string {
	if len(u.LeftAlone) == 0 { // a machine that tells no more
		return strings.Join(u.Avoided, ", ")
	}
	var parts []string
	for _, a := range u.LeftAlone {
		how := "did not work"
		if a.ByHand {
			how = "left by hand"
		}
		parts = append(parts, fmt.Sprintf("%s (%s, %s)", a.Version, how, localTime(a.At)))
	}
	return strings.Join(parts, ", ")
}

// progressOf is what is under way, for machines that know no details.
func progressOf(u *wherryv1.GetUpdateResponse) *wherryv1.UpdateProgress {
	if u.Progress.GetPhase() == u.Phase {
		return u.Progress
	}
	return &wherryv1.UpdateProgress{Phase: u.Phase, Target: u.Target}
}

func because(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}

func offerText(o *wherryv1.UpdateOffer) string {
	if o.DeltaBytes > 0 {
		return fmt.Sprintf("%s is there, %s (%s as a delta)", o.Version, size(o.Bytes), size(o.DeltaBytes))
	}
	return fmt.Sprintf("%s is there, %s", o.Version, size(o.Bytes))
}

func trustText(t *wherryv1.UpdateTrust) string {
	switch {
	case t == nil:
		return ""
	case t.SecureBoot && t.SignedBy != "":
		return ", verified by Secure Boot, signed by " + t.SignedBy
	case t.SecureBoot:
		return ", verified by Secure Boot"
	}
	return ", not verified (no Secure Boot)"
}

func policyText(p *wherryv1.UpdatePolicy) string {
	if p == nil {
		return ""
	}
	parts := []string{p.Mode}
	if p.Pin != "" {
		parts = append(parts, "pinned to "+p.Pin)
	} else {
		parts = append(parts, "channel "+p.Channel)
	}
	if p.Url != "" {
		parts = append(parts, "from "+p.Url)
	}
	if p.Window != "" {
		parts = append(parts, "window "+p.Window)
	}
	if d := p.Spread.AsDuration(); d > 0 {
		parts = append(parts, "spread "+d.String())
	}
	if p.Report {
		parts = append(parts, "reports")
	}
	return strings.Join(parts, ", ")
}

// rootText names the image's root role too where the project's keys were changed since.
func rootText(u *wherryv1.GetUpdateResponse) string {
	if u.RootVersion == u.ImageRootVersion {
		return u.RootRole
	}
	root, keys, _ := strings.Cut(u.RootRole, ",")
	return fmt.Sprintf("%s (image has %d),%s", root, u.ImageRootVersion, keys)
}

func pauseText(u *wherryv1.GetUpdateResponse) string {
	switch {
	case !u.Paused:
		return ""
	case u.PausedUntil == nil:
		return "until somebody resumes"
	}
	return "until " + localTime(u.PausedUntil)
}

func (c *CLI) checkText(u *wherryv1.GetUpdateResponse) string {
	if u.Policy.GetUrl() == "" {
		return ""
	}
	text := "never"
	if u.CheckedAt != nil {
		text = c.age(u.CheckedAt)
	}
	if u.NextCheckAt != nil {
		text += ", next at " + localTime(u.NextCheckAt)
	}
	return because(text, firstLine(u.CheckError))
}

func windowText(u *wherryv1.GetUpdateResponse) string {
	if u.WindowStart == nil {
		return ""
	}
	return fmt.Sprintf("%s to %s", localTime(u.WindowStart), localTime(u.WindowEnd))
}

func trialText(t *wherryv1.UpdateTrial) string {
	if t == nil {
		return ""
	}
	var parts []string
	for _, k := range t.Checks {
		parts = append(parts, because(k.Name+" "+k.State, firstLine(k.Message)))
	}
	text := strings.Join(parts, "; ")
	if t.Needed != nil {
		text += fmt.Sprintf("; stays when all has been well for %s", brief(t.Needed.AsDuration()))
		if t.Held.AsDuration() > 0 {
			text += fmt.Sprintf(" (for %.0f s by now)", t.Held.AsDuration().Seconds())
		}
	}
	if t.EndsAt != nil {
		text = strings.TrimPrefix(text+"; goes back at "+localTime(t.EndsAt), "; ")
	}
	return text
}

func (c *CLI) lastText(r *wherryv1.UpdateRecord) string {
	if r == nil {
		return ""
	}
	text := fmt.Sprintf("%s → %s %s", r.From, r.To, r.State)
	if r.EndedAt == nil {
		text += ", begun " + c.ago(r.StartedAt)
	} else {
		text += " " + c.ago(r.EndedAt) + downtime(r)
	}
	if s := sizes(r); s != "" {
		text += ", " + s
	}
	if r.DeltaRefused != "" {
		text += " (not as a delta: " + firstLine(r.DeltaRefused) + ")"
	}
	return because(text, firstLine(r.Reason))
}

// downtime is what an update cost, as the tail of a sentence.
func downtime(r *wherryv1.UpdateRecord) string {
	if r.Downtime == nil {
		return ""
	}
	return ", down for " + tenths(r.Downtime.AsDuration())
}

func tenths(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

func sizes(r *wherryv1.UpdateRecord) string {
	switch {
	case r.DownloadedBytes == 0:
		return ""
	case r.Delta:
		return size(r.DownloadedBytes) + " as a delta"
	}
	return size(r.DownloadedBytes)
}

func slotText(s *wherryv1.UpdateSlot) string {
	text := fmt.Sprintf("%s  %s  %s", s.Version, size(s.Bytes), s.File)
	if s.Running {
		text += "  running"
	}
	switch {
	case s.Bad:
		text += "  bad"
	case s.Trial:
		text += fmt.Sprintf("  on trial, %d tries left", s.TriesLeft)
	}
	if s.Next {
		text += "  next"
	}
	return text
}

func firstLine(s string) string {
	line, _, more := strings.Cut(strings.TrimSpace(s), "\n")
	if more {
		return line + " …"
	}
	return line
}

func localTime(t *timestamppb.Timestamp) string {
	if t == nil {
		return "?"
	}
	return t.AsTime().Local().Format("2006-01-02 15:04")
}
