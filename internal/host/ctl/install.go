// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/docker/go-units"

	"wherry.example/wherry/api/wherryv1"
)

// Disks prints the machine's disks, and which can be installed onto.
func (c *CLI) Disks(ctx context.Context) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	res, err := unary(ctx, api.Install.ListDisks, &wherryv1.ListDisksRequest{})
	if err != nil {
		return err
	}
	if c.JSON {
		return c.printMessage(res)
	}
	if res.Medium != "" {
		c.notef("the machine was started from the live medium %s, and touches no disk by itself", res.Medium)
	}
	var rows [][]string
	for _, d := range res.Disks {
		use := "yes"
		switch {
		case d.NeedsWipe:
			use = "with --wipe: " + d.Reason
		case !d.Usable:
			use = "no: " + d.Reason
		}
		rows = append(rows, []string{d.Name, units.HumanSize(float64(d.Bytes)), orDash(d.Model), orDash(d.Serial), contentOf(d), use})
	}
	return table(c.Out, "DISK\tSIZE\tMODEL\tSERIAL\tCONTENT\tINSTALL", rows)
}

func orDash(s string) string { return cmp.Or(s, "-") }

func contentOf(d *wherryv1.InstallDisk) string {
	if len(d.Partitions) > 0 {
		return d.Content + ": " + strings.Join(d.Partitions, ", ")
	}
	return d.Content
}

// InstallOptions say how to install.
type InstallOptions struct {
	Disk string
	Wipe bool
	// Document is the path of the new machine's configuration, - for standard
	// input; empty: that of this machine.
	Document string
	NewKey   bool
	Reboot   bool
	// Confirm asks before a disk is wiped; nil: nobody is there to ask.
	Confirm func(ctx context.Context, question string) (bool, error)
	Timeout time.Duration // for the reboot
}

// Install puts the operating system onto a disk of the machine.
func (c *CLI) Install(ctx context.Context, o InstallOptions) error {
	req := &wherryv1.InstallRequest{Disk: o.Disk, Wipe: o.Wipe, NewKey: o.NewKey}
	if o.Document != "" {
		document, err := c.readDocument(o.Document)
		if err != nil {
			return err
		}
		req.Document = string(document)
	}
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	if o.Wipe && o.Confirm != nil {
		if err := c.confirmWipe(ctx, o); err != nil {
			return err
		}
	}
	var result *wherryv1.InstallResult
	progress := &installProgress{cli: c}
	err = serverStream(ctx, api.Install.Install, req, func(m *wherryv1.InstallResponse) error {
		if c.JSON {
			return c.printLine(m)
		}
		if result = m.Result; result == nil {
			progress.show(m)
		}
		return nil
	})
	progress.clear()
	if err != nil {
		return err
	}
	if result != nil {
		c.printInstalled(result)
	}
	if o.Reboot {
		return c.Reboot(ctx, true, o.Timeout)
	}
	return nil
}

// confirmWipe shows what would be lost. What cannot be wiped, or need not be, is
// the machine's to say.
func (c *CLI) confirmWipe(ctx context.Context, o InstallOptions) error {
	api, err := c.API(ctx)
	if err != nil {
		return err
	}
	res, err := unary(ctx, api.Install.ListDisks, &wherryv1.ListDisksRequest{})
	if err != nil {
		return err
	}
	serial, _ := strings.CutPrefix(o.Disk, "serial:")
	for _, d := range res.Disks {
		if !d.NeedsWipe || d.Name != o.Disk && d.Path != o.Disk && d.Serial != serial {
			continue
		}
		question := fmt.Sprintf("Everything on %s will be lost (%s%s, %s). Go on?", d.Path, strings.TrimSpace(d.Model+" "), units.HumanSize(float64(d.Bytes)), contentOf(d))
		yes, err := o.Confirm(ctx, question)
		if err != nil {
			return err
		}
		if !yes {
			return errors.New("nothing was written")
		}
	}
	return nil
}

func (c *CLI) printInstalled(r *wherryv1.InstallResult) {
	for _, w := range r.Warnings {
		c.notef("warning: %s", w)
	}
	fmt.Fprintf(c.Out, "Wherry %s is installed on %s\n", r.Version, r.Disk)
	if r.KeyKept {
		c.notef("the installed machine keeps this one's key: %s", r.Fingerprint)
	} else {
		c.notef("the installed machine will have a key of its own: its console shows it")
	}
}

// installProgress shows one line that changes on a terminal, else one for each step.
type installProgress struct {
	cli   *CLI
	said  string
	shown bool
}

func (p *installProgress) show(m *wherryv1.InstallResponse) {
	if !p.cli.live() {
		if m.Step != p.said {
			p.cli.notef("%s", m.Step)
		}
		p.said = m.Step
		return
	}
	text := m.Step
	if m.Total > 0 {
		text += " " + bar(m.Done, m.Total)
	}
	p.shown = true
	fmt.Fprintf(p.cli.Err, "\r\x1b[K%s", text)
}

func (p *installProgress) clear() {
	if p.shown {
		fmt.Fprint(p.cli.Err, "\r\x1b[K")
	}
}
