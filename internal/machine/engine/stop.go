// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/api/wherryv1"
)

// killTime is how long the end of a killed container may take to be seen.
const killTime = 30 * time.Second

// Stop asks the container to end and kills it after the timeout. Stopping what
// does not run is no error, but a restart that is due is called off.
func (e *Engine) Stop(ctx context.Context, ref, signal string, timeout *time.Duration) error {
	c, err := e.table.find(ref, false)
	if err != nil {
		return err
	}
	if err := checkStop(signal, timeout); err != nil {
		return err
	}
	if err := e.wantStopped(c); err != nil {
		return err
	}
	if c.running() == nil && !c.starting() {
		return nil
	}
	if err := e.endRun(ctx, c, signal, timeout); err != nil {
		return err
	}
	e.publish(c, "stop", nil)
	return nil
}

func checkStop(signal string, timeout *time.Duration) error {
	if timeout != nil && (*timeout < 0 || *timeout > maxStopSecs*time.Second) {
		return errorf(KindInvalid, "stop timeout %v is out of bounds", *timeout)
	}
	_, err := parseSignal(signal)
	return err
}

// wantStopped records that the container shall not run. From here on neither
// the restart policy nor a crash of this process brings it back.
func (e *Engine) wantStopped(c *container) error {
	e.stopRetry(c)
	err := c.change(func(r *record) {
		r.WantRunning = false
		r.State.StoppedByUser = true
		if r.State.Phase == wherryv1.ContainerPhase_CONTAINER_PHASE_RESTARTING {
			r.State.Phase = wherryv1.ContainerPhase_CONTAINER_PHASE_EXITED
		}
	})
	return withDiskKind(err)
}

// starting says that something holds the container's lock: a start may be under way.
func (c *container) starting() bool { return len(c.op) > 0 }

// endRun signals, waits and kills. It returns when the end is recorded.
func (e *Engine) endRun(ctx context.Context, c *container, signal string, timeout *time.Duration) error {
	r, err := e.settled(ctx, c)
	if err != nil || r == nil {
		return err
	}
	s := c.record().Effective
	if signal == "" {
		signal = s.StopSignal
	}
	sig, err := parseSignal(signal)
	if err != nil {
		return err
	}
	grace := s.StopTimeout.AsDuration()
	if timeout != nil {
		grace = *timeout
	}
	if err := r.signal(sig); err != nil {
		return err
	}
	e.thaw(ctx, c)
	if waitDone(ctx, r, grace) {
		return nil
	}
	if err := r.signal(unix.SIGKILL); err != nil {
		return err
	}
	if waitDone(context.WithoutCancel(ctx), r, killTime) {
		return nil
	}
	return fmt.Errorf("container %s does not end though it was killed; a process of it may hang in the kernel", c.record().Name)
}

// settled returns the container's run once nothing is under way, nil when none.
func (e *Engine) settled(ctx context.Context, c *container) (*run, error) {
	if r := c.running(); r != nil {
		return r, nil
	}
	if err := c.lock(ctx); err != nil {
		return nil, err
	}
	defer c.unlock()
	return c.running(), nil
}

// signal sends to the container's first process. An ended process is no error.
func (r *run) signal(sig unix.Signal) error {
	if err := r.pidfd.signal(sig); !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

func waitDone(ctx context.Context, r *run, limit time.Duration) bool {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-r.done:
		return true
	case <-t.C:
		return false
	case <-ctx.Done():
		return false
	}
}

// Kill sends one signal, SIGKILL when empty.
func (e *Engine) Kill(ctx context.Context, ref, signal string) error {
	c, err := e.table.find(ref, false)
	if err != nil {
		return err
	}
	if signal == "" {
		signal = "SIGKILL"
	}
	sig, err := parseSignal(signal)
	if err != nil {
		return err
	}
	r, err := c.runningOrError()
	if err != nil {
		return err
	}
	if sig == unix.SIGKILL {
		// As docker's: what was killed by hand is not started again.
		if err := e.wantStopped(c); err != nil {
			return err
		}
	}
	if err := r.signal(sig); err != nil {
		return err
	}
	e.publish(c, "kill", map[string]string{"signal": signal})
	if sig == unix.SIGKILL && !waitDone(ctx, r, killTime) && ctx.Err() == nil {
		return fmt.Errorf("container %s does not end though it was killed", c.record().Name)
	}
	return nil
}

// Restart stops the container if it runs, and starts it.
func (e *Engine) Restart(ctx context.Context, ref string, timeout *time.Duration) error {
	c, err := e.table.find(ref, false)
	if err != nil {
		return err
	}
	if err := checkStop("", timeout); err != nil {
		return err
	}
	if c.running() != nil {
		if err := e.wantStopped(c); err != nil {
			return err
		}
		if err := e.endRun(ctx, c, "", timeout); err != nil {
			return err
		}
	}
	if err := e.start(ctx, c, true); err != nil {
		return err
	}
	e.publish(c, "restart", nil)
	return nil
}

// removal is what Remove was asked for.
type removal struct {
	force   bool // also when it runs
	volumes bool // the anonymous ones too
}

// Remove removes a container and its file system.
func (e *Engine) Remove(ctx context.Context, ref string, force, volumes bool) error {
	c, err := e.table.find(ref, false)
	if err != nil {
		return err
	}
	return e.remove(ctx, c, removal{force, volumes})
}

func (e *Engine) remove(ctx context.Context, c *container, how removal) error {
	if how.force {
		zero := time.Duration(0)
		if err := e.wantStopped(c); err != nil && KindOf(err) != KindResourceExhausted {
			return err // a full disk must not keep from making room
		}
		if err := e.endRun(ctx, c, "SIGKILL", &zero); err != nil {
			return err
		}
	}
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	rec := c.record()
	switch {
	case c.isGone():
		return errorf(KindNotFound, "no such container: %s", rec.Name)
	case c.running() != nil:
		return errorf(KindConflict, "container %s is running; stop it first or remove it by force", rec.Name)
	}
	e.stopRetry(c)
	if err := c.change(func(r *record) {
		r.Stage, r.WantRunning = stageRemoving, false
		r.State.Phase = wherryv1.ContainerPhase_CONTAINER_PHASE_REMOVING
	}); err != nil && withDiskKind(err) == err {
		return err
	}
	// Once begun it is finished, whoever hangs up.
	if err := e.dismantle(context.WithoutCancel(ctx), c); err != nil {
		return fmt.Errorf("remove container %s: %w", rec.Name, err)
	}
	e.table.remove(c)
	c.mu.Lock()
	c.gone = true
	c.wakeLocked()
	c.mu.Unlock()
	e.publish(c, "destroy", nil)
	if how.volumes {
		e.removeAnonymous(context.WithoutCancel(ctx), rec)
	}
	e.collectIfShort(context.WithoutCancel(ctx))
	return nil
}

func (e *Engine) removeAnonymous(ctx context.Context, rec record) {
	for _, v := range rec.Anonymous {
		if err := e.opts.Volumes.Remove(ctx, v); err != nil {
			e.log.Warn("engine: anonymous volume stays", "volume", v, "err", err)
		}
	}
}

// Wait answers when the container's run has ended: the last one when it does
// not run, else the current one.
func (e *Engine) Wait(ctx context.Context, q *wherryv1.WaitContainerRequest) (*wherryv1.WaitContainerResponse, error) {
	c, err := e.table.find(q.GetContainer(), false)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	before := c.exits
	c.mu.Unlock()
	for {
		c.mu.Lock()
		rec, changed, ended, gone := c.rec, c.changed, c.exits > before, c.gone
		idle := c.run == nil && rec.State.Phase != wherryv1.ContainerPhase_CONTAINER_PHASE_RESTARTING
		c.mu.Unlock()
		over := ended || idle && !q.NextExit
		if q.Removed {
			over = gone
		}
		if over || gone {
			return &wherryv1.WaitContainerResponse{ExitCode: rec.State.ExitCode, Error: rec.State.Error}, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
