// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrPaused says that QEMU stopped the machine's processors because a write to
// its disk failed, which nearly always means that this computer's disk is full.
// The machine loses nothing: it goes on where it was.
var ErrPaused = errors.New("QEMU paused the machine because its disk could not be written: this computer's disk is full")

const (
	pauseAnswer = 2 * time.Second
	pauseEvery  = 3 * time.Second
	resumeProof = 500 * time.Millisecond
)

// Paused returns ErrPaused when the machine is. One whose QEMU does not answer
// counts as running: what is wrong with it shows elsewhere.
func (vm *VM) Paused(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pauseAnswer)
	defer cancel()
	var status struct{ Status string }
	if err := vm.Execute(ctx, "query-status", nil, &status); err != nil || status.Status != "io-error" {
		return nil
	}
	return fmt.Errorf("%w: free some space where %s is", ErrPaused, vm.path("state.img"))
}

// Resume lets a paused machine go on. The write that failed is tried again at
// once, so that a disk that is still full shows soon.
func (vm *VM) Resume(ctx context.Context) error {
	if err := vm.Execute(ctx, "cont", nil, nil); err != nil {
		return fmt.Errorf("let machine %s go on: %w", vm.name, err)
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(resumeProof):
		return vm.Paused(ctx)
	}
}
