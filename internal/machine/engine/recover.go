// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/machine/engine/tasks"
)

func readBootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// reconcile brings records and reality together.
func (e *Engine) reconcile(ctx context.Context) error {
	dir := filepath.Join(e.opts.Root, "containers")
	records, strays, err := loadRecords(dir)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for id, err := range strays {
		if absent(err) { // its creation was never acknowledged, or its removal was
			e.logFailure("remove a stray directory", id, os.RemoveAll(filepath.Join(dir, id)))
			continue
		}
		known[id] = true // keep its data for a person to look at
		e.log.Error("engine: container cannot be read and is left alone", "id", id, "err", err)
	}
	found := make([]*container, 0, len(records))
	logs := map[string]*logFile{}
	for _, r := range records {
		known[r.ID] = true
		c := newContainer(*r, filepath.Join(dir, r.ID))
		c.logs = newLogFile(c.dir, r.Effective.GetLog(), e.log)
		found, logs[r.ID] = append(found, c), c.logs
	}
	e.holds.recover(func(id string) *logFile { return logs[id] }) // before anything reads on
	var all sync.WaitGroup
	for _, c := range found {
		all.Go(func() { e.settle(ctx, c) })
	}
	all.Wait()
	e.removeOrphans(ctx, known)
	running := e.runningIDs()
	if err := e.opts.Network.Retain(ctx, running); err != nil {
		e.log.Error("engine: give back addresses of containers that ended", "err", err)
	}
	for _, c := range e.table.all() {
		switch r := c.record(); {
		case c.running() != nil:
		case comesBack(r, r.BootID != e.bootID):
			e.bringBack(c)
		case r.Spec.AutoRemove && r.BootID != "": // it was started once
			e.work.Go(func() { e.autoRemove(c) })
		}
	}
	return nil
}

// bringBack starts a container in the background: at once when it was running,
// after its pause when it kept failing.
func (e *Engine) bringBack(c *container) {
	if r := c.record(); r.State.Phase == wherryv1.ContainerPhase_CONTAINER_PHASE_RESTARTING {
		e.startLater(c, pauseBefore(max(r.Failures, 1)))
		return
	}
	e.logFailure("record the return of a container", c.id, c.change(func(r *record) {
		r.WantRunning, r.Failures, r.Returns = true, 0, true
		r.State.Phase = wherryv1.ContainerPhase_CONTAINER_PHASE_RESTARTING // so that lists show it
	}))
	e.startLater(c, 0)
}

func (e *Engine) logFailure(what, id string, err error) {
	if err != nil {
		e.log.Error("engine: "+what, "id", id, "err", err)
	}
}

func (e *Engine) runningIDs() []string {
	ids := []string{}
	for _, c := range e.table.all() {
		if c.running() != nil {
			ids = append(ids, c.id)
		}
	}
	return ids
}

// settle decides what becomes of one record.
func (e *Engine) settle(ctx context.Context, c *container) {
	rec := c.record()
	if rec.Stage != stageReady {
		e.discard(ctx, c)
		return
	}
	if err := e.table.reserve(nameKey{rec.System, rec.Name}, c.id); err != nil {
		e.log.Error("engine: two containers have one name; the later one is known by its id alone", "id", c.id, "name", rec.Name)
	}
	e.table.add(c)
	st, there, err := e.taskState(ctx, c)
	e.logFailure("find the task of a container", c.id, err)
	if there && (st.Phase == tasks.Running || st.Phase == tasks.Paused) {
		if err := e.readopt(ctx, c, st); err == nil {
			return
		} else {
			e.logFailure("take over a running container", c.id, err)
		}
		st, there, _ = e.taskState(ctx, c) // it may have just ended
	}
	how := e.unseenEnd(c)
	if there && st.Phase == tasks.Stopped {
		how = end{code: st.End.Code, at: st.End.At}
		e.keepLastOutput(c)
	}
	if ran(rec.State.Phase) {
		e.foundEnded(c, how)
	}
	e.removeRuntimeFiles(ctx, c.id)
}

// unseenEnd is what can be said of an end that nobody saw.
func (e *Engine) unseenEnd(c *container) end {
	how := end{code: unknownExit, at: time.Now(), note: "it ended while the engine did not run; its exit code is lost"}
	if c.record().BootID != e.bootID {
		how.note, how.withMachine = "the machine went down", true
	}
	return how
}

// keepLastOutput writes to the log what a container that ended unseen left in its FIFOs.
func (e *Engine) keepLastOutput(c *container) {
	s := c.record().Effective
	io, err := reopenStdio(filepath.Join(e.runPath(c.id), "io"), s.Tty, s.Stdin, e.holds.mover(c.id, c.logs))
	if err != nil {
		e.logFailure("read the last output of a container", c.id, err)
		return
	}
	io.waitOutput(drainTime)
	io.close()
	c.logs.closeFile()
}

// foundEnded does for an end in the past what handleEnd does for one just seen.
func (e *Engine) foundEnded(c *container, how end) {
	how.oom = e.oomKills(c.id) > 0
	e.conclude(c, how)
	if how.oom {
		e.publish(c, "oom", nil)
	}
	e.tellEnd(c, how)
}

// removeRuntimeFiles removes what an ended container of an earlier life left behind.
func (e *Engine) removeRuntimeFiles(ctx context.Context, id string) {
	e.logFailure("end a leftover task", id, e.endTask(ctx, id))
	e.killCgroup(id)
	if err := e.unmountRoot(id); err != nil {
		e.logFailure("unmount a leftover", id, err)
		return // never delete below a mount
	}
	e.logFailure("remove runtime files", id, os.RemoveAll(e.runPath(id)))
}

// discard ends the half-made and the half-removed.
func (e *Engine) discard(ctx context.Context, c *container) {
	e.logFailure("end the task of a half-made container", c.id, e.endTask(ctx, c.id))
	e.killCgroup(c.id)
	if err := e.dismantle(ctx, c); err != nil {
		e.logFailure("remove a half-made container", c.id, err)
		// It stays in phase removing, where a person can see and remove it.
		e.table.add(c)
	}
}

// readopt takes over a task that ran on while this process was away.
func (e *Engine) readopt(ctx context.Context, c *container, was tasks.State) error {
	rec := c.record()
	r := &run{pid: was.Pid, done: make(chan struct{}), began: rec.State.GetStartedAt().AsTime()}
	var err error
	if r.pidfd, err = openPidfd(r.pid); err != nil {
		return err
	}
	// Between the shim's answer and here the process may have ended and its
	// number been given away: only a shim that still says so settles it.
	if st, _, err := e.taskState(ctx, c); err != nil || st.Phase == tasks.Stopped || st.Pid != was.Pid {
		r.pidfd.close()
		return errors.Join(err, errors.New("it has just ended"))
	}
	r.stdio, err = reopenStdio(filepath.Join(e.runPath(c.id), "io"), rec.Effective.Tty, rec.Effective.Stdin, e.holds.mover(c.id, c.logs))
	if err != nil {
		r.pidfd.close()
		return fmt.Errorf("read the container's output on: %w", err)
	}
	known := ran(rec.State.Phase)
	e.adopt(c, r, func(rec *record) {
		if rec.State.StartedAt == nil || !known {
			r.began = time.Now()
		}
		if was.Phase == tasks.Paused {
			rec.State.Phase = phasePaused
		}
		if rec.State.StartedAt == nil {
			rec.State.StartedAt = nowStamp()
		}
		rec.WantRunning = rec.WantRunning || !rec.State.StoppedByUser
	})
	e.adoptExecs(c, r)
	if rec.State.StoppedByUser { // a stop was cut short
		e.work.Go(func() { e.logFailure("finish a stop", c.id, e.endRun(e.life, c, "", nil)) })
	}
	return nil
}

// removeOrphans removes tasks, snapshots, mounts and cgroups that no record knows.
func (e *Engine) removeOrphans(ctx context.Context, known map[string]bool) {
	var orphans []string
	err := e.snapshotter().Walk(imageContext(ctx), func(_ context.Context, i snapshots.Info) error {
		if id := i.Labels[labelContainer]; id != "" && !known[id] {
			orphans = append(orphans, i.Name)
		}
		return nil
	})
	e.logFailure("look for leftover snapshots", "", err)
	for _, id := range orphans {
		e.removeRuntimeFiles(ctx, id)
		e.logFailure("remove a leftover snapshot", id, e.removeSnapshot(ctx, id))
	}
	for _, dir := range []string{e.opts.RunDir, filepath.Join("/sys/fs/cgroup", e.opts.CgroupParent)} {
		entries, _ := os.ReadDir(dir)
		for _, d := range entries {
			if d.IsDir() && len(d.Name()) == 64 && !known[d.Name()] {
				e.removeRuntimeFiles(ctx, d.Name())
			}
		}
	}
}

// killCgroup ends whatever still runs in a container's cgroup and removes it.
func (e *Engine) killCgroup(id string) {
	dir := e.cgroupPath(id)
	if _, err := os.Stat(dir); err != nil {
		return
	}
	e.logFailure("kill a leftover cgroup", id, os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0))
	for range 50 {
		removeCgroups(dir)
		if _, err := os.Stat(dir); err != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	e.log.Warn("engine: leftover cgroup stays", "id", id)
}

// removeCgroups removes a cgroup and those below it. Busy ones stay.
func removeCgroups(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, d := range entries {
		if d.IsDir() {
			removeCgroups(filepath.Join(dir, d.Name()))
		}
	}
	_ = unix.Rmdir(dir) // busy: the caller looks again
}
