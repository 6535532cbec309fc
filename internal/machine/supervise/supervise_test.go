// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package supervise

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

var policy = Policy{FirstDelay: 100 * time.Millisecond, MaxDelay: 10 * time.Second, Healthy: 30 * time.Second,
	Grace: 90 * time.Second, KillGrace: 10 * time.Second}

// life is how one run of the fake program goes.
type life struct {
	lives    time.Duration // then it ends by itself; 0: it never does
	startErr error
	onTerm   time.Duration // how long it takes to end after SIGTERM; <0: it ignores it
	deaf     bool          // not even SIGKILL ends it
}

type fake struct {
	life    life
	pid     int
	done    chan struct{}
	outcome string
	signals []unix.Signal
}

func (f *fake) Pid() int              { return f.pid }
func (f *fake) Done() <-chan struct{} { return f.done }
func (f *fake) Outcome() string       { return f.outcome }

func (f *fake) end(after time.Duration, outcome string) {
	time.AfterFunc(after, func() {
		if f.outcome == "" {
			f.outcome = outcome
			close(f.done)
		}
	})
}

func (f *fake) Signal(s unix.Signal) error {
	f.signals = append(f.signals, s)
	switch {
	case f.life.deaf:
	case s == unix.SIGKILL:
		f.end(0, "killed")
	case s == unix.SIGTERM && f.life.onTerm >= 0:
		f.end(f.life.onTerm, "terminated")
	}
	return nil
}

// run plays the lives one after the other, the last one again and again, and
// stops the supervisor after d. It returns what was reported, with times.
func run(t *testing.T, d time.Duration, lives ...life) (log []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		pid := 0
		s := Supervisor{Program: "x", Policy: policy,
			Start: func() (Process, error) {
				l := lives[min(pid, len(lives)-1)]
				pid++
				if l.startErr != nil {
					return nil, l.startErr
				}
				f := &fake{life: l, pid: pid, done: make(chan struct{})}
				if l.lives > 0 {
					f.end(l.lives, "crashed")
				}
				return f, nil
			},
			Report: func(e Event) { log = append(log, time.Since(begin).String()+" "+e.String()) },
		}
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		s.Run(ctx)
		synctest.Wait()
	})
	return log
}

func TestRun(t *testing.T) {
	for name, c := range map[string]struct {
		stop  time.Duration
		lives []life
		want  []string
	}{
		"stops when asked": {time.Minute, []life{{onTerm: 2 * time.Second}}, []string{
			"0s x started, pid 1", "1m0s stopping x, pid 1", "1m2s x stopped (terminated)"}},
		"is killed after the grace period": {time.Second, []life{{onTerm: -1}}, []string{
			"0s x started, pid 1", "1s stopping x, pid 1", "1m31s x did not end within 1m30s: killing it", "1m31s x stopped (killed)"}},
		"is given up when killing does not help": {time.Second, []life{{deaf: true}}, []string{
			"0s x started, pid 1", "1s stopping x, pid 1", "1m31s x did not end within 1m30s: killing it",
			"1m41s x, pid 1, does not end even when killed: going on without it"}},
		"a long life resets the delay": {40 * time.Second, []life{{lives: time.Millisecond}, {lives: time.Millisecond}, {lives: 30 * time.Second}, {}}, []string{
			"0s x started, pid 1",
			"1ms x ended (crashed) after 1ms; starting it again in 100ms",
			"101ms x started, pid 2",
			"102ms x ended (crashed) after 1ms; starting it again in 200ms",
			"302ms x started, pid 3",
			"30.302s x ended (crashed) after 30s; starting it again in 100ms",
			"30.402s x started, pid 4",
			"40s stopping x, pid 4", "40s x stopped (terminated)"}},
		"a program that does not start is tried again": {250 * time.Millisecond, []life{{startErr: errors.New("no such file")}, {startErr: errors.New("no such file")}}, []string{
			"0s start x: no such file; trying again in 100ms",
			"100ms start x: no such file; trying again in 200ms"}},
		"stopped while waiting to restart": {50 * time.Millisecond, []life{{lives: time.Millisecond}}, []string{
			"0s x started, pid 1", "1ms x ended (crashed) after 1ms; starting it again in 100ms"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, run(t, c.stop, c.lives...)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestBackoffIsBounded crashes for an hour: the delay doubles to its bound and stays.
func TestBackoffIsBounded(t *testing.T) {
	starts := 0
	var last string
	for _, line := range run(t, time.Hour, life{lives: time.Millisecond}) {
		if strings.Contains(line, "started") {
			starts++
		}
		if _, after, ok := strings.Cut(line, "again in "); ok {
			last = after
		}
	}
	if last != "10s" {
		t.Errorf("the last delay is %s, want 10s", last)
	}
	// 100 ms … 6.4 s are seven delays of 12.7 s; the rest of the hour has one start each 10 s.
	if want := 1 + 7 + 358; starts < want-1 || starts > want+1 {
		t.Errorf("%d starts in an hour, want about %d", starts, want)
	}
}
