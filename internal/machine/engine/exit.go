// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"wherry.example/wherry/api/wherryv1"
)

// end is how a run ended.
type end struct {
	code int
	at   time.Time
	oom  bool
	note string // when the code is not the process's own
	// neverRan: the start did not work; note says why.
	neverRan bool
	// withMachine: the machine went down, and the run with it.
	withMachine bool
}

const (
	// unknownExit is the code of a run whose end nobody saw.
	unknownExit = 255
	drainTime   = 2 * time.Second
)

// watchEnd waits for the end of a run and does what follows.
func (e *Engine) watchEnd(c *container, r *run) {
	for {
		ended, err := e.waitTask(e.life, c)
		if e.life.Err() != nil {
			return // the engine closes; the container goes on
		}
		if err == nil {
			e.handleEnd(c, r, ended)
			return
		}
		e.log.Warn("engine: wait for a container", "id", c.id, "err", err)
		time.Sleep(time.Second)
	}
}

// waitTask asks the shim for the end.
func (e *Engine) waitTask(ctx context.Context, c *container) (end, error) {
	how, err := e.shim.Wait(ctx, c.task())
	if errdefs.IsNotFound(err) {
		return end{code: unknownExit, at: time.Now(), note: "the shim lost the container; its exit code is not known"}, nil
	}
	return end{code: how.Code, at: how.At}, err
}

// handleEnd drains the output, records the end together with what follows from
// it, and cleans up. A SIGKILL before the record is harmless: the ended task is
// found again. After the record it is harmless too: the rest is found as
// leftovers.
func (e *Engine) handleEnd(c *container, r *run, how end) {
	c.op <- struct{}{}
	r.stop()
	kills, told := e.oomKills(c.id), e.oom.remove(c.id)
	how.oom = kills > 0
	r.stdio.waitOutput(drainTime)
	answer := e.conclude(c, how)
	e.cleanAfterRun(context.WithoutCancel(e.life), c, r)
	c.logs.closeFile()
	if kills > told {
		e.publish(c, "oom", nil)
	}
	e.tellEnd(c, how) // before anyone is woken who may look for it
	c.mu.Lock()
	c.run = nil
	c.exits++
	c.wakeLocked()
	c.mu.Unlock()
	r.code = how.code
	close(r.done)
	c.unlock()
	e.follow(c, answer)
}

// cleanAfterRun gives back what only a running container needs.
func (e *Engine) cleanAfterRun(ctx context.Context, c *container, r *run) {
	e.slots <- struct{}{}
	defer func() { <-e.slots }()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	e.logUndo(c, e.opts.Network.Detach(ctx, c.id))
	task := e.endTask(ctx, c.id)
	e.logUndo(c, task)
	r.pidfd.close()
	r.stdio.close()
	root := e.unmountRoot(c.id)
	e.logUndo(c, root)
	if task == nil && root == nil { // never delete below a mount, nor what a task is found by
		os.RemoveAll(e.runPath(c.id))
	}
}

// conclude applies the restart policy to an end and records both at once, so
// that no crash can come between them.
func (e *Engine) conclude(c *container, how end) restartAnswer {
	rec := c.record()
	q := restartQuestion{Policy: rec.Spec.Restart, WantRunning: rec.WantRunning, ExitCode: how.code, Failures: rec.Failures, NeverRan: how.neverRan}
	if r := c.running(); r != nil {
		q.Ran = time.Since(r.began) // whatever the clock was set to meanwhile
	} else if s := rec.State.StartedAt; s != nil && !how.neverRan {
		q.Ran = how.at.Sub(s.AsTime())
	}
	a := decideRestart(q)
	err := c.change(func(r *record) {
		applyEnd(r, how)
		r.Failures = a.Failures
		switch {
		case e.stopping.Load():
			// The machine goes down: what has a policy comes back with it.
			r.WantRunning = r.WantRunning && r.Spec.GetRestart().GetKind() != wherryv1.RestartPolicy_KIND_NO
		case a.Restart:
			r.State.Phase, r.Returns = wherryv1.ContainerPhase_CONTAINER_PHASE_RESTARTING, how.withMachine
		default:
			r.WantRunning = false
		}
	})
	if err != nil {
		e.log.Error("engine: record the end of a container", "id", c.id, "err", err)
	}
	return a
}

func applyEnd(r *record, how end) {
	r.State.Pid, r.Returns = 0, false
	r.State.ExitCode = int32(how.code)
	r.State.Error = how.note
	r.Endpoints, r.Ports = nil, nil
	if how.neverRan {
		if r.State.StartedAt != nil {
			r.State.Phase = wherryv1.ContainerPhase_CONTAINER_PHASE_EXITED
		}
		return
	}
	r.State.Phase = wherryv1.ContainerPhase_CONTAINER_PHASE_EXITED
	r.State.OomKilled = how.oom
	r.State.FinishedAt = timestamppb.New(how.at)
}

// follow does what was concluded.
func (e *Engine) follow(c *container, a restartAnswer) {
	rec := c.record()
	switch {
	case e.stopping.Load() || rec.Stage != stageReady:
	case rec.Spec.AutoRemove:
		e.work.Go(func() { e.autoRemove(c) })
	case a.Restart:
		e.startLater(c, a.Pause)
	}
}

func (e *Engine) tellEnd(c *container, how end) {
	e.publish(c, "die", map[string]string{"exitCode": strconv.Itoa(how.code)})
}

// startLater starts a container after a pause, unless it is stopped meanwhile.
func (e *Engine) startLater(c *container, pause time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.retry != nil {
		c.retry.Stop()
	}
	c.retry = time.AfterFunc(pause, func() {
		if e.life.Err() != nil || e.stopping.Load() || !c.record().WantRunning {
			return
		}
		if err := e.start(e.life, c, false); err != nil {
			e.log.Debug("engine: restart", "id", c.id, "err", err)
		}
	})
}

func (e *Engine) stopRetry(c *container) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.retry != nil {
		c.retry.Stop()
		c.retry = nil
	}
}

// readersLimit is how long slow readers can keep an ended container from its
// automatic removal.
const readersLimit = time.Minute

func (e *Engine) autoRemove(c *container) {
	c.waitReaders(e.life, readersLimit)
	if e.life.Err() != nil {
		return // the next life finds it ended and removes it
	}
	if err := e.remove(e.life, c, removal{volumes: true}); err != nil && KindOf(err) != KindNotFound {
		e.log.Error("engine: remove an ended container", "id", c.id, "err", err)
	}
}

// cgroupPath is the directory of the container's cgroup.
func (e *Engine) cgroupPath(id string) string {
	return filepath.Join("/sys/fs/cgroup", e.opts.CgroupParent, id)
}

// oomKills reads how often the kernel killed in the container for want of memory.
func (e *Engine) oomKills(id string) int {
	return int(readCounters(filepath.Join(e.cgroupPath(id), "memory.events"))["oom_kill"])
}

// readCounters reads a file of "name value" lines; a missing one is empty.
func readCounters(path string) map[string]uint64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	m := map[string]uint64{}
	for line := range bytes.Lines(b) {
		if f := bytes.Fields(line); len(f) == 2 {
			if n, err := strconv.ParseUint(string(f[1]), 10, 64); err == nil {
				m[string(f[0])] = n
			}
		}
	}
	return m
}
