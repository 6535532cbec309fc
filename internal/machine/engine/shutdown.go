// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Shutdown stops every container for the machine's end: all at once, users'
// before the system's. What they are meant to do stays recorded, so that they
// come back with the machine. When ctx ends, what is left is killed.
func (e *Engine) Shutdown(ctx context.Context) {
	e.stopping.Store(true)
	e.board(false, "stopping containers")
	for _, system := range []bool{false, true} {
		var wg sync.WaitGroup
		for _, c := range e.table.all() {
			e.stopRetry(c)
			if c.system == system {
				wg.Go(func() { e.shutDown(ctx, c) })
			}
		}
		wg.Wait()
	}
	e.board(false, "stopped")
}

func (e *Engine) shutDown(ctx context.Context, c *container) {
	r, err := e.settled(ctx, c)
	if err != nil || r == nil {
		return
	}
	rec := c.record()
	grace := rec.Effective.StopTimeout.AsDuration()
	if rec.Spec.StopTimeout == nil {
		if d := e.settings.Load().Containers.StopTimeout; d > 0 {
			grace = d
		}
	}
	sig, _ := parseSignal(rec.Effective.StopSignal)
	if err := r.signal(sig); err != nil {
		e.logUndo(c, err)
	}
	e.thaw(ctx, c)
	if waitDone(ctx, r, grace) {
		return
	}
	e.logUndo(c, r.signal(unix.SIGKILL))
	if !waitDone(context.Background(), r, 10*time.Second) {
		e.log.Error("engine: container does not end", "id", c.id)
	}
}
