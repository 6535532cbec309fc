// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"fmt"
	"strings"
	"time"

	"wherry.example/wherry/api/wherryv1"
)

// The phases of updates that this program acts on.
const (
	phaseIdle      = "idle"
	phaseStaged    = "staged"
	phaseRebooting = "rebooting"
	phaseTrying    = "trying"
)

// updateProgress shows how far an update is: one line with a bar on a terminal,
// else a line whenever the phase changes.
type updateProgress struct {
	cli     *CLI
	phase   string // the last that was heard
	target  string
	said    string
	missing []string // what was not as before yet when the machine was last seen back in its old release
	drawn   time.Time
	shown   bool
}

func newUpdateProgress(c *CLI) *updateProgress { return &updateProgress{cli: c} }

func (p *updateProgress) show(m *wherryv1.UpdateProgress) {
	if m == nil {
		return
	}
	changed := m.Phase != p.phase
	p.phase = m.Phase
	if m.Target != "" {
		p.target = m.Target
	}
	if m.Phase == phaseRebooting {
		p.clear() // who asked says so, in a line that stays
		return
	}
	if !p.cli.live() {
		// Bytes change all the time; words do not.
		p.plain(because(strings.TrimSpace(m.Phase+" "+m.Target), m.Message))
		return
	}
	if now := time.Now(); changed || now.Sub(p.drawn) >= redrawEvery || m.Bytes == m.TotalBytes {
		p.drawn = now
		p.draw(progressText(m))
	}
}

// trial shows what a new release still has to prove, or what does not run again after going back.
func (p *updateProgress) trial(u *wherryv1.GetUpdateResponse) {
	text, trial := "trying "+u.Target, u.Trial
	switch {
	case u.Returning != nil:
		text, trial = "back in "+u.Version, u.Returning
		p.missing = waiting(trial)
	case u.Phase != phaseTrying:
		return
	}
	text += waitText(trial, p.cli.live())
	if p.cli.live() {
		p.draw(text)
		return
	}
	p.plain(text)
}

// waitText says what is waited for and for how long at most, and then for how long it must stay so: as the tail of
// a sentence. Live, it also says how much of that is over.
func waitText(t *wherryv1.UpdateTrial, live bool) string {
	waits, most := waiting(t), ""
	if d := t.GetEndsAt().AsTime().Sub(t.GetStartedAt().AsTime()); t.GetEndsAt() != nil && t.GetStartedAt() != nil && d > 0 {
		most = " (" + brief(d) + " at most)"
	}
	needed := t.GetNeeded().AsDuration()
	switch {
	case len(waits) > 0:
		return ", waiting for " + strings.Join(waits, ", ") + most
	case needed == 0: // nothing was looked at yet, or the machine does not say
		return ""
	case live:
		return fmt.Sprintf(": all is well, for %.0f s of %s", t.Held.AsDuration().Seconds(), brief(needed))
	}
	return fmt.Sprintf(": all is well, and must stay so for %s", brief(needed))
}

// brief is a duration without the parts that are zero at its end.
func brief(d time.Duration) string {
	s := d.Round(time.Second).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// waiting names the checks that do not hold yet.
func waiting(t *wherryv1.UpdateTrial) (names []string) {
	for _, k := range t.GetChecks() {
		if k.State != "passed" {
			names = append(names, k.Name)
		}
	}
	return names
}

func (p *updateProgress) plain(text string) {
	if text == p.said {
		return
	}
	p.said = text
	p.cli.notef("%s", text)
}

func (p *updateProgress) draw(text string) {
	p.shown = true
	fmt.Fprintf(p.cli.Err, "\r\x1b[K%s", firstLine(text))
}

func (p *updateProgress) clear() {
	if p.shown {
		fmt.Fprint(p.cli.Err, "\r\x1b[K")
		p.shown = false
	}
}

// progressText is one line about what is under way.
func progressText(m *wherryv1.UpdateProgress) string {
	text := strings.TrimSpace(m.Phase + " " + m.Target)
	if m.Delta {
		text += " as a delta"
	}
	if m.TotalBytes > 0 {
		text += " " + bar(m.Bytes, m.TotalBytes)
	}
	return because(text, m.Message)
}
