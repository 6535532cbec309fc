// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package supervise keeps one program running.
//
// It starts the program, and starts it again whenever it ends: after a first
// delay that doubles with each early death up to a bound, and that begins anew
// once the program has lived long enough. It signals only the process itself,
// never its group or its children: what the program started (containers)
// outlives it. When told to stop it asks the process to end, waits, and kills
// it only after the grace period.
//
// It owns nothing but the one process, reads no files, and reports everything
// that happens as an Event; failing to start is an event like any other.
package supervise

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a running program.
type Process interface {
	Pid() int
	// Done is closed when the process has ended.
	Done() <-chan struct{}
	// Outcome says in words how it ended, once Done is closed.
	Outcome() string
	Signal(unix.Signal) error
}

// Policy is how long to wait for what.
type Policy struct {
	// FirstDelay is the delay before the first restart; it doubles up to MaxDelay.
	FirstDelay, MaxDelay time.Duration
	// Healthy is how long a process must live for the delay to begin anew.
	Healthy time.Duration
	// Grace is the time between asking the process to end and killing it.
	Grace time.Duration
	// KillGrace is how long to wait for a killed process to be gone: one
	// that waits for a dead disk never is.
	KillGrace time.Duration
}

// next returns the delay before a restart, given the last one and how long the process lived.
func (p Policy) next(last, lived time.Duration) time.Duration {
	if last <= 0 || lived >= p.Healthy {
		return p.FirstDelay
	}
	return min(2*last, p.MaxDelay)
}

// Kind is what happened.
type Kind int

const (
	Started     Kind = iota
	Ended            // by itself; it is restarted after Delay
	StartFailed      // tried again after Delay
	Stopping         // it was asked to end
	Killed           // it did not end in time
	Stopped          // it has ended because it was told to
	Stuck            // it did not even end when killed
)

// Event is something that happened to the program.
type Event struct {
	Kind    Kind
	Program string
	Pid     int
	Outcome string
	Lived   time.Duration
	Delay   time.Duration
	Err     error
}

// String is the event as a line of a log.
func (e Event) String() string {
	switch e.Kind {
	case Started:
		return fmt.Sprintf("%s started, pid %d", e.Program, e.Pid)
	case Ended:
		return fmt.Sprintf("%s ended (%s) after %s; starting it again in %s", e.Program, e.Outcome, e.Lived.Round(time.Millisecond), e.Delay)
	case StartFailed:
		return fmt.Sprintf("start %s: %v; trying again in %s", e.Program, e.Err, e.Delay)
	case Stopping:
		return fmt.Sprintf("stopping %s, pid %d", e.Program, e.Pid)
	case Killed:
		return fmt.Sprintf("%s did not end within %s: killing it", e.Program, e.Delay)
	case Stopped:
		return fmt.Sprintf("%s stopped (%s)", e.Program, e.Outcome)
	case Stuck:
		return fmt.Sprintf("%s, pid %d, does not end even when killed: going on without it", e.Program, e.Pid)
	}
	return fmt.Sprintf("%s: event %d", e.Program, e.Kind)
}

// Supervisor keeps one program running.
type Supervisor struct {
	Program string
	Policy  Policy
	Start   func() (Process, error)
	// Report is called with every event, from the goroutine of Run.
	Report func(Event)
}

// Run keeps the program running until ctx ends, stops it then, and returns
// when the process is gone or given up.
func (s *Supervisor) Run(ctx context.Context) {
	var delay time.Duration
	for ctx.Err() == nil {
		begun := time.Now()
		p, err := s.Start()
		if err != nil {
			delay = s.Policy.next(delay, 0)
			s.report(Event{Kind: StartFailed, Err: err, Delay: delay})
			sleep(ctx, delay)
			continue
		}
		s.report(Event{Kind: Started, Pid: p.Pid()})
		select {
		case <-ctx.Done():
			s.stop(p)
			return
		case <-p.Done():
		}
		lived := time.Since(begun)
		delay = s.Policy.next(delay, lived)
		s.report(Event{Kind: Ended, Pid: p.Pid(), Outcome: p.Outcome(), Lived: lived, Delay: delay})
		sleep(ctx, delay)
	}
}

// stop asks, waits, kills, waits.
func (s *Supervisor) stop(p Process) {
	s.report(Event{Kind: Stopping, Pid: p.Pid()})
	if s.signalAndWait(p, unix.SIGTERM, s.Policy.Grace) {
		return
	}
	s.report(Event{Kind: Killed, Pid: p.Pid(), Delay: s.Policy.Grace})
	if !s.signalAndWait(p, unix.SIGKILL, s.Policy.KillGrace) {
		s.report(Event{Kind: Stuck, Pid: p.Pid()})
	}
}

func (s *Supervisor) signalAndWait(p Process, sig unix.Signal, d time.Duration) bool {
	// An error means that it has ended or that it can't be signalled; waiting tells which.
	_ = p.Signal(sig)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.Done():
		s.report(Event{Kind: Stopped, Pid: p.Pid(), Outcome: p.Outcome()})
		return true
	case <-t.C:
		return false
	}
}

func (s *Supervisor) report(e Event) {
	e.Program = s.Program
	if s.Report != nil {
		s.Report(e)
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
