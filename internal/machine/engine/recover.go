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

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"

	"wherry.example/wherry/api/wherryv1"
)

func readBootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// reconcile brings records and reality together. found is what the shims said
// before containerd started.
func (e *Engine) reconcile(ctx context.Context, found *foundEnds) error {
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
	var all sync.WaitGroup
	for _, r := range records {
		known[r.ID] = true
		c := newContainer(*r, filepath.Join(dir, r.ID))
		c.logs = newLogFile(c.dir, r.Effective.GetLog(), e.log)
		all.Go(func() { e.settle(ctx, c, found) })
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
		r.WantRunning, r.Failures = true, 0
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
func (e *Engine) settle(ctx context.Context, c *container, found *foundEnds) {
	rec := c.record()
	t, err := e.loadTask(ctx, c)
	e.logFailure("find the task of a container", c.id, err)
	if rec.Stage != stageReady {
		e.discard(ctx, c, t)
		return
	}
	if err := e.table.reserve(nameKey{rec.System, rec.Name}, c.id); err != nil {
		e.log.Error("engine: two containers have one name; the later one is known by its id alone", "id", c.id, "name", rec.Name)
	}
	e.table.add(c)
	wasRunning := rec.State.Phase == wherryv1.ContainerPhase_CONTAINER_PHASE_RUNNING
	if t != nil {
		st, err := t.Status(c.taskContext(ctx))
		if err == nil && (st.Status == client.Running || st.Status == client.Paused) {
			if err := e.readopt(ctx, c, t); err == nil {
				return
			} else {
				e.logFailure("take over a running container", c.id, err)
			}
		}
		if err == nil && st.Status == client.Stopped {
			found.add(c.id, end{code: int(st.ExitStatus), at: st.ExitTime})
		}
		e.killTask(ctx, c, t)
	}
	how, seen := e.endOf(c, found)
	if wasRunning || seen && rec.State.Phase == wherryv1.ContainerPhase_CONTAINER_PHASE_RUNNING {
		e.foundEnded(c, how)
	}
	e.tidy(ctx, c)
}

// endOf is the end that was found, or what can be said without one.
func (e *Engine) endOf(c *container, found *foundEnds) (end, bool) {
	if how, ok := found.get(c.id); ok {
		return how, true
	}
	how := end{code: unknownExit, at: time.Now(), note: "it ended while the engine did not run; its exit code is lost"}
	if c.record().BootID != e.bootID {
		how.note = "the machine went down"
	}
	return how, false
}

// foundEnded does for an end in the past what handleEnd does for one just seen.
func (e *Engine) foundEnded(c *container, how end) {
	how.oom = how.oom || e.oomKills(c.id) > 0
	e.conclude(c, how)
	e.tellEnd(c, how)
}

// tidy removes what an ended container of an earlier life left behind.
func (e *Engine) tidy(ctx context.Context, c *container) {
	e.logFailure("forget an ended task", c.id, e.forgetTask(ctx, c))
	e.removeRuntimeFiles(c.id)
}

func (e *Engine) removeRuntimeFiles(id string) {
	e.killCgroup(id)
	if err := e.unmountRoot(id); err != nil {
		e.logFailure("unmount a leftover", id, err)
		return // never delete below a mount
	}
	e.logFailure("remove runtime files", id, os.RemoveAll(e.runPath(id)))
}

// discard ends the half-made and the half-removed.
func (e *Engine) discard(ctx context.Context, c *container, t client.Task) {
	if t != nil {
		e.killTask(ctx, c, t)
	}
	e.killCgroup(c.id)
	if err := e.dismantle(ctx, c); err != nil {
		e.logFailure("remove a half-made container", c.id, err)
		// It stays in phase removing, where a person can see and remove it.
		e.table.add(c)
	}
}

// readopt takes over a task that ran on while this process was away.
func (e *Engine) readopt(ctx context.Context, c *container, t client.Task) error {
	rec := c.record()
	r := &run{task: t, pid: int(t.Pid()), done: make(chan struct{}), pidfd: -1, began: rec.State.GetStartedAt().AsTime()}
	fd, err := unix.PidfdOpen(r.pid, 0)
	if err != nil {
		return fmt.Errorf("hold the container's process: %w", err)
	}
	// Between the shim's answer and here the process may have ended and its
	// number been given away: only a shim that still says so settles it.
	if st, err := t.Status(c.taskContext(ctx)); err != nil || st.Status == client.Stopped {
		unix.Close(fd)
		return errors.Join(err, errors.New("it has just ended"))
	}
	r.pidfd = fd
	r.stdio, err = reopenStdio(filepath.Join(e.runPath(c.id), "io"), rec.Effective.Tty, rec.Effective.Stdin, c.logs.write)
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("read the container's output on: %w", err)
	}
	e.adopt(c, r, func(rec *record) {
		if rec.State.StartedAt == nil || rec.State.Phase != wherryv1.ContainerPhase_CONTAINER_PHASE_RUNNING {
			r.began = time.Now()
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
	for _, ns := range []string{userNamespace, systemNamespace} {
		e.removeOrphanTasks(namespaces.WithNamespace(ctx, ns), ns == systemNamespace, known)
	}
	var orphans []string
	err := e.snapshotter().Walk(imageContext(ctx), func(_ context.Context, i snapshots.Info) error {
		if id := i.Labels[labelContainer]; id != "" && !known[id] {
			orphans = append(orphans, i.Name)
		}
		return nil
	})
	e.logFailure("look for leftover snapshots", "", err)
	for _, id := range orphans {
		e.removeRuntimeFiles(id)
		e.logFailure("remove a leftover snapshot", id, e.removeSnapshot(ctx, id))
	}
	for _, dir := range []string{e.opts.RunDir, filepath.Join("/sys/fs/cgroup", e.opts.CgroupParent)} {
		entries, _ := os.ReadDir(dir)
		for _, d := range entries {
			if d.IsDir() && len(d.Name()) == 64 && !known[d.Name()] {
				e.removeRuntimeFiles(d.Name())
			}
		}
	}
}

func (e *Engine) removeOrphanTasks(ctx context.Context, system bool, known map[string]bool) {
	list, err := e.client.Containers(ctx)
	e.logFailure("look for leftover tasks", "", err)
	for _, l := range list {
		if known[l.ID()] {
			continue
		}
		c := newContainer(record{ID: l.ID(), System: system}, "")
		if t, err := l.Task(ctx, nil); err == nil {
			e.killTask(ctx, c, t)
		}
		e.logFailure("forget a leftover task", c.id, e.forgetTask(ctx, c))
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
