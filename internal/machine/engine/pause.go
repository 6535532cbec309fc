// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"

	"wherry.example/wherry/api/wherryv1"
)

const (
	phaseRunning = wherryv1.ContainerPhase_CONTAINER_PHASE_RUNNING
	phasePaused  = wherryv1.ContainerPhase_CONTAINER_PHASE_PAUSED
)

// ran says that a record in that phase was of a container with processes.
func ran(p wherryv1.ContainerPhase) bool { return p == phaseRunning || p == phasePaused }

// Pause freezes a container's processes. It keeps its memory, its addresses and
// its place in the restart policy.
func (e *Engine) Pause(ctx context.Context, ref string) error {
	return e.freeze(ctx, ref, true)
}

// Unpause lets a container go on.
func (e *Engine) Unpause(ctx context.Context, ref string) error {
	return e.freeze(ctx, ref, false)
}

func (e *Engine) freeze(ctx context.Context, ref string, frozen bool) error {
	c, err := e.table.find(ref, false)
	if err != nil {
		return err
	}
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	rec := c.record()
	switch {
	case c.running() == nil:
		return errorf(KindConflict, "container %s is not running", rec.Name)
	case frozen == (rec.State.Phase == phasePaused):
		return errorf(KindConflict, "container %s is %s", rec.Name, map[bool]string{true: "paused already", false: "not paused"}[frozen])
	case frozen:
		return e.pauseLocked(ctx, c)
	}
	return e.resumeLocked(ctx, c)
}

func (e *Engine) pauseLocked(ctx context.Context, c *container) error {
	if err := e.shim.Pause(ctx, c.id); err != nil {
		return fmt.Errorf("pause container %s: %w", c.record().Name, err)
	}
	e.publish(c, "pause", nil)
	return withDiskKind(c.change(func(r *record) { r.State.Phase = phasePaused }))
}

func (e *Engine) resumeLocked(ctx context.Context, c *container) error {
	if err := e.shim.Resume(ctx, c.id); err != nil {
		return fmt.Errorf("let container %s go on: %w", c.record().Name, err)
	}
	e.publish(c, "unpause", nil)
	return withDiskKind(c.change(func(r *record) { r.State.Phase = phaseRunning }))
}

// thaw lets a paused container go on so that it can hear a signal.
func (e *Engine) thaw(ctx context.Context, c *container) {
	if c.record().State.Phase != phasePaused {
		return
	}
	if err := c.lock(ctx); err != nil {
		return
	}
	defer c.unlock()
	if c.running() != nil && c.record().State.Phase == phasePaused {
		e.logFailure("let a paused container end", c.id, e.resumeLocked(ctx, c))
	}
}
