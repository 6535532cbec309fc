// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package console is what a person sees on the machine's screen and serial
// line: the boot as it goes, and then who this machine is and how to reach it.
//
// It owns no state of the machine. Run is given the facts by a function and a
// channel that says when to ask it; it prints them only when they differ from
// what stands there, and waits a moment first, because addresses come in
// bursts. It writes to every console of the kernel and to the screen, and a
// console that does not take the bytes is passed over. Text from outside
// (names, errors) is stripped of control characters: a DHCP server must not
// draw on the screen.
package console

import (
	"context"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"wherry.example/wherry/internal/linux/tty"
)

// settle is how long the facts must have been quiet before they are printed.
const settle = time.Second

// screen is the machine's own display, a console even when the kernel's command line names only the serial line.
const screen = "/dev/tty0"

// Console writes lines to people. It is safe for concurrent use.
type Console struct {
	mu    sync.Mutex
	out   io.Writer
	shown Info
}

// New writes to the machine's consoles.
func New() *Console {
	devices := tty.Active("/sys")
	if _, err := os.Stat(screen); err == nil && !slices.Contains(devices, screen) {
		devices = append(devices, screen)
	}
	return To(tty.Consoles{Devices: devices})
}

// To writes to w.
func To(w io.Writer) *Console { return &Console{out: w} }

// Step prints one line of the boot's progress: what, and in a few words how it went.
func (c *Console) Step(what, how string) { c.write(step(what, how)) }

// Ready prints the line that programs wait for.
func (c *Console) Ready(i Info) { c.write(ready(i)) }

// Banner prints the facts, unless they stand there already.
func (c *Console) Banner(i Info) {
	c.mu.Lock()
	same := reflect.DeepEqual(i, c.shown)
	c.shown = i
	c.mu.Unlock()
	if !same {
		c.write(banner(i))
	}
}

// Run prints the banner now and after changes, until ctx ends.
func (c *Console) Run(ctx context.Context, changes <-chan struct{}, facts func() Info) {
	for {
		c.Banner(facts())
		select {
		case <-ctx.Done():
			return
		case <-changes:
		}
		if !quiet(ctx, changes) {
			return
		}
	}
}

// quiet waits until no change has come for a while, but not for ever.
func quiet(ctx context.Context, changes <-chan struct{}) bool {
	for range 5 {
		select {
		case <-ctx.Done():
			return false
		case <-changes:
		case <-time.After(settle):
			return true
		}
	}
	return true
}

// write gives everything in one call, so that lines of others do not fall in between.
func (c *Console) write(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprint(c.out, text)
}

// clean makes text from outside fit for a terminal and one line.
func clean(s string, max int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			return -1
		}
		return r
	}, s)
	if r := []rune(s); len(r) > max {
		return string(r[:max-1]) + "…"
	}
	return s
}
