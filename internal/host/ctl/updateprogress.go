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
	cli    *CLI
	phase  string // the last that was heard
	target string
	said   string
	drawn  time.Time
	shown  bool
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

// trial shows what a new release still has to prove.
func (p *updateProgress) trial(u *wherryv1.GetUpdateResponse) {
	if u.Phase != phaseTrying {
		return
	}
	var waiting []string
	for _, k := range u.Trial.GetChecks() {
		if k.State != "passed" {
			waiting = append(waiting, k.Name)
		}
	}
	text := "trying " + u.Target
	if len(waiting) > 0 {
		text += ", waiting for " + strings.Join(waiting, ", ")
	}
	if p.cli.live() {
		p.draw(text)
		return
	}
	p.plain(text)
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
