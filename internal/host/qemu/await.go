// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"time"
)

var (
	errHung  = errors.New("the kernel hung before it said anything")
	errEnded = errors.New("QEMU ended")
	errFatal = errors.New("the machine's kernel gave up")
	// errAccelerator is returned when hardware virtualisation does not do what it promised.
	errAccelerator = errors.New("hardware virtualisation does not work here")
)

// awaitReady follows the console until the line of readiness, or until waiting
// longer makes no sense.
func (vm *VM) awaitReady(ctx context.Context, run Run, progress io.Writer) (Ready, error) {
	w := watch{started: run.StartedAt, changed: run.StartedAt, progress: progress}
	asked := time.Now()
	for {
		// Whether QEMU lives is asked before the console is read: what it
		// printed last is then not missed.
		alive := processAlive(run.PID, run.ProcessStart)
		console, err := vm.consoleFrom(run.ConsoleOffset)
		if err == nil {
			if ready, ok := ParseReady(console); ok {
				return ready, nil
			}
		}
		if !alive {
			return Ready{}, errEnded
		}
		if run.Accelerator != "tcg" && len(console) == 0 && vm.acceleratorBroken(time.Since(run.StartedAt)) {
			return Ready{}, errAccelerator
		}
		if time.Since(asked) >= pauseEvery {
			if err := vm.Paused(ctx); err != nil {
				return Ready{}, err
			}
			asked = time.Now()
		}
		if err := w.look(console, time.Now()); err != nil {
			return Ready{}, err
		}
		select {
		case <-ctx.Done():
			return Ready{}, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// acceleratorBroken is asked while the machine said nothing yet.
func (vm *VM) acceleratorBroken(waited time.Duration) bool {
	log, err := os.ReadFile(vm.path("qemu.log"))
	return err == nil && bytes.Contains(log, []byte("internal error")) || waited > silenceAccelerated
}

// watch judges a boot by what its console shows over time.
type watch struct {
	started, changed time.Time
	size             int
	told             time.Duration
	fatalAt          time.Time
	progress         io.Writer
}

// Limits of patience. An emulated kernel says nothing for seconds on a busy
// computer; the timer check takes far less than a second.
const (
	silenceAtAll   = 90 * time.Second
	silenceAtTimer = 10 * time.Second
	// With hardware virtualisation a kernel speaks within a second.
	silenceAccelerated = 20 * time.Second
	fatalGrace         = 500 * time.Millisecond // for the rest of a panic's text
	tellEvery          = 15 * time.Second
)

var timerRE = regexp.MustCompile(`8254 timer not connected to IO-APIC|trying to set up timer`)

// look judges the console as it is now.
func (w *watch) look(console []byte, now time.Time) error {
	if len(console) != w.size {
		if w.size == 0 {
			fmt.Fprintf(w.progress, "kernel runs after %.1f s\n", now.Sub(w.started).Seconds())
		}
		w.size, w.changed = len(console), now
	}
	if w.fatalAt.IsZero() && fatal(string(console)) {
		w.fatalAt = now
	}
	if !w.fatalAt.IsZero() && now.Sub(w.fatalAt) >= fatalGrace {
		return errFatal
	}
	if hung(console, now.Sub(w.changed)) {
		return errHung
	}
	if waited := now.Sub(w.started); waited-w.told >= tellEvery {
		w.told = waited
		fmt.Fprintf(w.progress, "not ready after %.0f s; the console's last line: %s\n", waited.Seconds(), tailLines(console, 1))
	}
	return nil
}

func hung(console []byte, silent time.Duration) bool {
	if len(bytes.TrimSpace(console)) == 0 {
		return silent > silenceAtAll
	}
	return silent > silenceAtTimer && timerRE.MatchString(tailLines(console, 1))
}

// AwaitReady waits until the machine prints a line of readiness after the
// given position of its console log (see ConsoleLog): a reboot ends so.
func (vm *VM) AwaitReady(ctx context.Context, after int) (Ready, error) {
	run, ok := vm.Run()
	if !ok {
		return Ready{}, fmt.Errorf("machine %s does not run", vm.name)
	}
	run.ConsoleOffset += int64(after)
	run.StartedAt = time.Now()
	ready, err := vm.awaitReady(ctx, run, io.Discard)
	if err != nil {
		return Ready{}, vm.startError(run, err)
	}
	return ready, nil
}
