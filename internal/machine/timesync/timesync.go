// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package timesync keeps the machine's clock right.
//
// It owns the system clock, the hardware clock, and the file machine/clock in
// the state, whose time is the last at which the clock was known to be right.
// It reads nothing but the servers' answers.
//
// At the start, a clock that is before the day of this release or before that
// file's time cannot be right: it is set to the later of the two, so that at
// least certificates are valid. From then on, servers are asked by SNTP
// whenever the machine is online: those of the configuration, else those from
// DHCP, else the pool of Debian. The median of the answers counts. The first
// one steps the clock; later ones steer it through the kernel, unless two in
// a row say that it is off by more than stepLimit. A server that says to go
// away is left alone for a day. Without servers nothing happens but a line on the
// board: nobody waits for the time.
package timesync

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"wherry.example/wherry/internal/machine/status"
)

const boardLine = "time"

// pool is asked when nobody names a server.
var pool = []string{"0.debian.pool.ntp.org", "1.debian.pool.ntp.org", "2.debian.pool.ntp.org", "3.debian.pool.ntp.org"}

// Options are what the clock needs of the machine.
type Options struct {
	Log   *slog.Logger
	Board *status.Board
	// Dir is /state/machine.
	Dir string
	// Version is this release's, whose day no clock can be before.
	Version string
	// Kernel is the machine's clock when nil.
	Kernel Kernel
}

// Clock keeps the time.
type Clock struct {
	o        Options
	earliest time.Time
	file     string
	wake     chan struct{}

	mu         sync.Mutex
	configured []string
	offered    []string
	online     bool
	source     string // "": not synchronised

	// What follows belongs to Run.
	discipline discipline
	barred     map[string]time.Time // servers that are not to be asked until then
	written    time.Time            // when the hardware clock was set
}

// New returns a clock that does nothing before Run.
func New(o Options) *Clock {
	if o.Kernel == nil {
		o.Kernel = systemClock{}
	}
	return &Clock{
		o: o, earliest: releaseDay(o.Version), file: filepath.Join(o.Dir, "clock"), wake: make(chan struct{}, 1), barred: map[string]time.Time{},
	}
}

// Status says whether the clock was set by a server, and by which.
func (c *Clock) Status() (synchronised bool, source string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.source != "", c.source
}

// SetConfigured sets the servers of the configuration. It may be called often with the same.
func (c *Clock) SetConfigured(servers []string) {
	c.set(func() bool {
		same := slices.Equal(c.configured, servers)
		c.configured = slices.Clone(servers)
		return !same
	})
}

// SetNetwork says whether the machine is online, and which servers DHCP
// offered. It may be called often with the same.
func (c *Clock) SetNetwork(online bool, offered []netip.Addr) {
	c.set(func() bool {
		var servers []string
		for _, a := range offered {
			servers = append(servers, a.String())
		}
		same := c.online == online && slices.Equal(c.offered, servers)
		c.online, c.offered = online, servers
		return !same
	})
}

// set wakes Run when f says that something changed.
func (c *Clock) set(f func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !f() {
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// servers returns whom to ask now; none while the machine is not online.
func (c *Clock) servers() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !c.online:
		return nil
	case len(c.configured) > 0:
		return c.configured
	case len(c.offered) > 0:
		return c.offered
	}
	return pool
}

// Pauses between questions.
const (
	shortestPoll = 64 * time.Second
	longestPoll  = 2048 * time.Second
	firstRetry   = 4 * time.Second
	settle       = 2 * time.Second // between two answers that shall agree on a step
	never        = 24 * time.Hour
	// staleAfter is when a clock that nobody confirms stops to be called synchronised.
	staleAfter = 4 * time.Hour
)

// Run keeps the clock until ctx ends.
func (c *Clock) Run(ctx context.Context) {
	c.setSource("")
	c.raise()
	timer := time.NewTimer(0)
	defer timer.Stop()
	retry, success := firstRetry, time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
			retry = firstRetry
		case <-timer.C:
		}
		servers := c.servers()
		if len(servers) == 0 {
			timer.Reset(never)
			continue
		}
		pause, err := c.round(ctx, servers)
		if err != nil {
			if time.Since(success) > staleAfter {
				c.setSource("")
			}
			c.o.Log.Info("the time is not known yet, or not any more", "error", err)
			pause, retry = retry, min(2*retry, longestPoll/2)
		} else {
			success, retry = time.Now(), firstRetry
		}
		timer.Reset(pause + rand.N(pause/8+1))
	}
}

// raise sets a clock that cannot be right to what is the least wrong.
func (c *Clock) raise() {
	floor := c.earliest
	if last, ok := lastKnown(c.file); ok && last.After(floor) && last.Before(c.earliest.AddDate(maxYears, 0, 0)) {
		floor = last
	}
	now := c.o.Kernel.Now()
	if !now.Before(floor) {
		return
	}
	c.o.Log.Warn("the hardware clock is wrong", "says", now.UTC().Format(time.DateTime), "set to", floor.UTC().Format(time.DateTime))
	if err := c.o.Kernel.Step(floor.Sub(now)); err != nil {
		c.o.Log.Warn("set the clock", "error", err)
	}
}

// round asks the servers, steers the clock, and returns when to ask again.
func (c *Clock) round(ctx context.Context, servers []string) (time.Duration, error) {
	samples, err := c.ask(ctx, servers)
	if err != nil {
		return 0, err
	}
	best := median(samples)
	a := c.discipline.next(best)
	switch {
	case a.Step:
		err = c.o.Kernel.Step(best.Offset)
	case a.Slew:
		err = c.o.Kernel.Slew(best.Offset, a.Pause)
	}
	if err != nil {
		return 0, fmt.Errorf("set the clock: %w", err)
	}
	if a.Step {
		c.o.Log.Info("clock set", "by", best.Offset, "server", best.Server)
		c.written = time.Time{}
	}
	if a.Step || a.Slew {
		c.setSource(best.Server)
		c.remember()
	}
	return a.Pause, nil
}

func (c *Clock) setSource(source string) {
	c.mu.Lock()
	c.source = source
	c.mu.Unlock()
	if source == "" {
		// A machine without a way to a server does its work all the same: this is told, and is no problem.
		c.o.Board.Set(boardLine, true, "not synchronised: no server has answered")
		return
	}
	c.o.Board.Set(boardLine, true, "from "+source)
}

// rememberEvery bounds how often a right clock is written down.
const rememberEvery = time.Hour

// remember sets the hardware clock and the file for the next boot.
func (c *Clock) remember() {
	if !c.written.IsZero() && time.Since(c.written) < rememberEvery {
		return
	}
	c.written = time.Now()
	now := c.o.Kernel.Now()
	if err := c.o.Kernel.SetHardware(now); err != nil {
		c.o.Log.Info("set the hardware clock", "error", err)
	}
	if err := keepKnown(c.file, now); err != nil {
		c.o.Log.Warn("remember the time", "error", err)
	}
}
