// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// StopOptions say how a machine is stopped.
type StopOptions struct {
	// Timeout is how long the machine may take to end its containers and
	// switch itself off; 0: 100 s, more than it gives its containers.
	Timeout time.Duration
	// PowerOff asks the machine through its API. When nil, or when it returns
	// an error, the power button is pressed instead.
	PowerOff func(context.Context) error
}

// Stop switches the machine off: first by asking it, then, when it does not
// end within the timeout, by ending QEMU. Clean is false in the second case.
// Stopping a machine that does not run is no error.
func (vm *VM) Stop(ctx context.Context, o StopOptions) (clean bool, err error) {
	run, ok := vm.Run()
	if !ok {
		return true, nil
	}
	if o.Timeout == 0 {
		o.Timeout = 100 * time.Second
	}
	if vm.Paused(ctx) != nil && vm.Resume(ctx) != nil {
		return false, vm.killRun(run) // it cannot even notice the button
	}
	if o.PowerOff == nil || o.PowerOff(ctx) != nil {
		if err := vm.pressPowerButton(ctx); err != nil {
			return false, errors.Join(err, vm.killRun(run))
		}
	}
	if vm.awaitEnd(ctx, run, o.Timeout) {
		return true, nil
	}
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("stop machine %s: %w (it was asked to switch itself off and may still do so)", vm.name, err)
	}
	return false, vm.killRun(run)
}

// awaitEnd waits for QEMU to end. The button is pressed again now and then: a
// machine that still boots does not notice the first time.
func (vm *VM) awaitEnd(ctx context.Context, run Run, limit time.Duration) bool {
	const again = 10 * time.Second
	pressed := time.Now()
	for deadline := pressed.Add(limit); time.Now().Before(deadline) && ctx.Err() == nil; {
		if waitGone(run.PID, run.ProcessStart, 200*time.Millisecond) {
			return true
		}
		if time.Since(pressed) >= again {
			// QEMU may be ending this moment; waitGone will see it.
			_ = vm.pressPowerButton(ctx)
			pressed = time.Now()
		}
	}
	return !processAlive(run.PID, run.ProcessStart)
}

func (vm *VM) pressPowerButton(ctx context.Context) error {
	return vm.Execute(ctx, "system_powerdown", nil, nil)
}

// Kill ends QEMU at once: for the machine, a power cut.
func (vm *VM) Kill() error {
	if run, ok := vm.Run(); ok {
		return vm.killRun(run)
	}
	return nil
}

func (vm *VM) killRun(run Run) error {
	if err := killProcess(run.PID, run.ProcessStart); err != nil {
		return err
	}
	if !waitGone(run.PID, run.ProcessStart, 10*time.Second) {
		return fmt.Errorf("QEMU (pid %d) of machine %s does not end", run.PID, vm.name)
	}
	waitGone(run.TPM.PID, run.TPM.ProcessStart, tpmLimit) // it ends with QEMU; the next start looks again
	return nil
}
