// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"fmt"
	"strings"
	"time"

	"wherry.example/wherry/api/wherryv1"
)

const (
	redrawEvery  = 100 * time.Millisecond
	barWidth     = 30
	maxBarLayers = 20
	quietFor     = 700 * time.Millisecond // what takes less is not worth a line
)

// pullProgress shows how far the layers of a pull are: bars on a terminal,
// which clear removes again, and else a line when something has changed.
type pullProgress struct {
	cli    *CLI
	name   string
	begin  time.Time
	drawn  time.Time
	lines  int // on the screen now
	shown  bool
	status string
	order  []string
	layers map[string]*wherryv1.LayerProgress
	said   map[string]string // plain mode: last status written of each layer
}

func newPullProgress(c *CLI, name string) *pullProgress {
	return &pullProgress{cli: c, name: name, begin: time.Now(), layers: map[string]*wherryv1.LayerProgress{}, said: map[string]string{}}
}

func (p *pullProgress) update(m *wherryv1.PullImageResponse) {
	if m.Status != "" {
		p.status = m.Status
	}
	for _, l := range m.Layers {
		if p.layers[l.Digest] == nil {
			p.order = append(p.order, l.Digest)
		}
		p.layers[l.Digest] = l
	}
	if !p.cli.live() {
		p.plain()
		return
	}
	if now := time.Now(); now.Sub(p.begin) > quietFor && now.Sub(p.drawn) > redrawEvery {
		p.drawn = now
		p.draw()
	}
}

// plain writes a line when a layer reaches a state that matters.
func (p *pullProgress) plain() {
	for _, d := range p.order {
		l := p.layers[d]
		if p.said[d] == l.Status || l.Status == "waiting" {
			continue
		}
		p.said[d], p.shown = l.Status, true
		p.cli.notef("%s: %s: %s %s", p.name, shortID(d), l.Status, size(max(l.TotalBytes, l.Bytes)))
	}
	if p.said[""] != p.status && (p.status == "pulling" || p.status == "unpacking") {
		p.said[""] = p.status
		p.cli.notef("%s: %s", p.name, p.status)
	}
}

func (p *pullProgress) draw() {
	var b strings.Builder
	p.erase(&b)
	var done, total uint64
	lines := 0
	for _, d := range p.order {
		l := p.layers[d]
		done += l.Bytes
		total += l.TotalBytes
		if lines < maxBarLayers && l.Status != "done" && l.Status != "exists" {
			fmt.Fprintf(&b, "  %s %-9s %s\n", shortID(d), l.Status, bar(l.Bytes, l.TotalBytes))
			lines++
		}
	}
	fmt.Fprintf(&b, "%s: %s, %d layers, %s of %s\n", p.name, p.status, len(p.order), size(done), size(total))
	p.lines = lines + 1
	p.shown = true
	fmt.Fprint(p.cli.Err, b.String())
}

func (p *pullProgress) erase(b *strings.Builder) {
	if p.lines > 0 {
		fmt.Fprintf(b, "\x1b[%dA\x1b[J", p.lines)
	}
}

// clear takes the bars off the screen.
func (p *pullProgress) clear() {
	var b strings.Builder
	p.erase(&b)
	p.lines = 0
	fmt.Fprint(p.cli.Err, b.String())
}

func bar(done, total uint64) string {
	if total == 0 {
		return size(done)
	}
	filled := int(min(done, total) * barWidth / total)
	return fmt.Sprintf("[%s%s] %s/%s", strings.Repeat("=", filled), strings.Repeat(" ", barWidth-filled), size(done), size(total))
}

// byteProgress shows how much was sent of something whose size is not known.
type byteProgress struct {
	cli          *CLI
	what         string
	begin, drawn time.Time
	bytes        uint64
	shown        bool
}

func newByteProgress(c *CLI, what string) *byteProgress {
	return &byteProgress{cli: c, what: what, begin: time.Now()}
}

func (p *byteProgress) add(n int) {
	p.bytes += uint64(n)
	now := time.Now()
	if !p.cli.live() || now.Sub(p.begin) < quietFor || now.Sub(p.drawn) < redrawEvery {
		return
	}
	p.drawn, p.shown = now, true
	rate := float64(p.bytes) / now.Sub(p.begin).Seconds()
	fmt.Fprintf(p.cli.Err, "\r\x1b[K%s: %s, %s/s", p.what, size(p.bytes), size(uint64(rate)))
}

func (p *byteProgress) clear() {
	if p.shown {
		fmt.Fprint(p.cli.Err, "\r\x1b[K")
	}
}
