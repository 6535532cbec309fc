// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/machine/engine/tasks"
)

// run is a running task.
type run struct {
	pid   int
	pidfd *pidfd // nil until it runs
	stdio *stdio
	began time.Time
	done  chan struct{} // closes when the end is recorded
	code  int           // of the exit, once done is closed
	stop  context.CancelFunc
}

const startLimit = 3 * time.Minute

func startSlots() int { return max(2, runtime.NumCPU()) }

// Start starts a container that does not run.
func (e *Engine) Start(ctx context.Context, ref string) error {
	c, err := e.table.find(ref, false)
	if err != nil {
		return err
	}
	return e.start(ctx, c, true)
}

// start takes the container's lock and starts it. byUser says that a person
// asked: then the restart policy begins anew.
func (e *Engine) start(ctx context.Context, c *container, byUser bool) error {
	if err := c.lock(ctx); err != nil {
		return err
	}
	defer c.unlock()
	if e.stopping.Load() {
		return errorf(KindUnavailable, "the machine is shutting down")
	}
	rec := c.record()
	switch {
	case c.running() != nil:
		return nil // as docker: starting what runs is no error
	case rec.Stage != stageReady || c.isGone():
		return errorf(KindConflict, "container %s is being removed", rec.Name)
	case !byUser && !rec.WantRunning:
		return nil // stopped while it waited for its turn
	}
	e.stopRetry(c)
	if err := c.change(func(r *record) {
		r.WantRunning, r.BootID = true, e.bootID
		r.State.StoppedByUser = false
		if byUser {
			r.Failures, r.State.RestartCount = 0, 0
		} else if r.Failures > 0 { // not its first start since the machine's
			r.State.RestartCount++
		}
	}); err != nil {
		return withDiskKind(err)
	}
	e.slots <- struct{}{}
	// A caller that hangs up must not leave a start half done, but a runtime
	// that hangs must not hold its slot for ever.
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), startLimit)
	err := e.startLocked(limited, c)
	if errors.Is(err, tasks.ErrLost) { // what was begun is taken back: the next shim can do it
		err = e.startLocked(limited, c)
	}
	cancel()
	<-e.slots
	if err != nil {
		return e.startFailed(c, err, byUser)
	}
	e.publish(c, "start", nil)
	return nil
}

// startFailed records why. After a user's start the container stays stopped;
// a start of the restart policy is tried again.
func (e *Engine) startFailed(c *container, err error, byUser bool) error {
	code := ExitCodeOf(err)
	if code == 0 {
		code = 125
		err = &Error{Kind: KindOf(err), ExitCode: code, Err: err}
	}
	how := end{code: code, at: time.Now(), note: truncate(validText([]byte(err.Error())), 4096), neverRan: true}
	if !byUser {
		e.log.Warn("engine: restart of a container did not work", "name", c.record().Name, "err", err)
		e.follow(c, e.conclude(c, how))
		return err
	}
	saveErr := c.change(func(r *record) {
		applyEnd(r, how)
		r.WantRunning = false
	})
	if saveErr != nil {
		e.log.Error("engine: record a failed start", "id", c.id, "err", saveErr)
	}
	if c.record().Spec.AutoRemove {
		e.work.Go(func() { e.autoRemove(c) })
	}
	return err
}

// startLocked does the steps; whatever one of them made is taken back when a
// later one cannot be done.
func (e *Engine) startLocked(ctx context.Context, c *container) (err error) {
	rec := c.record()
	r := &run{done: make(chan struct{})}
	var undo []func()
	defer func() {
		for i := len(undo) - 1; err != nil && i >= 0; i-- {
			undo[i]()
		}
	}()
	if err := e.mountRoot(ctx, c.id); err != nil {
		return err
	}
	undo = append(undo, func() { e.logUndo(c, e.unmountRoot(c.id)) })
	b, err := e.prepareBundle(ctx, c, rec)
	if err != nil {
		return err
	}
	spec, err := ociSpec(rec.Effective, b)
	if err != nil {
		return err
	}
	undo = append(undo, c.logs.closeFile)
	r.stdio, err = makeStdio(filepath.Join(e.runPath(c.id), "io"), rec.Effective.Tty, rec.Effective.Stdin, e.holds.mover(c.id, c.logs))
	if err != nil {
		return err
	}
	undo = append(undo, r.stdio.close)
	undo = append(undo, func() { e.killTask(context.WithoutCancel(ctx), c) })
	r.pid, err = e.shim.Create(ctx, c.id, e.bundlePath(c.id), spec, r.stdio.names)
	if err != nil {
		return startError("container", err)
	}
	return e.release(ctx, c, r, &undo)
}

// release gives the created task its network and lets it run.
func (e *Engine) release(ctx context.Context, c *container, r *run, undo *[]func()) error {
	rec := c.record()
	var err error
	if r.pidfd, err = openPidfd(r.pid); err != nil {
		return err
	}
	*undo = append(*undo, r.pidfd.close)
	if err := r.stdio.read(); err != nil {
		return err
	}
	net, err := e.opts.Network.Attach(ctx, networkRequest(c.id, rec.Effective, netnsPath(rec.Effective, r.pid)))
	if err != nil {
		return fmt.Errorf("join the container's networks: %w", err)
	}
	*undo = append(*undo, func() { e.logUndo(c, e.opts.Network.Detach(context.WithoutCancel(ctx), c.id)) })
	if err := e.writeEtc(c.etcPath(), rec.Effective, net); err != nil {
		return err
	}
	if err := e.shim.Start(ctx, c.task()); err != nil {
		return startError("container", err)
	}
	r.began = time.Now()
	e.adopt(c, r, func(rec *record) {
		rec.State.StartedAt = timestamppb.New(r.began)
		rec.State.OomKilled, rec.State.Error, rec.State.ExitCode = false, "", 0
		rec.Endpoints, rec.Ports = net.Endpoints, net.Ports
	})
	return nil
}

func netnsPath(s *wherryv1.ContainerSpec, pid int) string {
	if s.NetworkMode == wherryv1.NetworkMode_NETWORK_MODE_HOST {
		return ""
	}
	return fmt.Sprintf("/proc/%d/ns/net", pid)
}

// adopt makes r the container's run and watches for its end.
func (e *Engine) adopt(c *container, r *run, also func(*record)) {
	ctx, cancel := context.WithCancel(e.life)
	r.stop = cancel
	c.mu.Lock()
	c.run, c.last = r, r
	c.mu.Unlock()
	err := c.change(func(rec *record) {
		rec.State.Phase, rec.Returns = phaseRunning, false
		rec.State.Pid = uint32(r.pid)
		rec.State.Health = wherryv1.HealthState_HEALTH_STATE_NONE
		if rec.Effective.Health != nil {
			rec.State.Health = wherryv1.HealthState_HEALTH_STATE_STARTING
		}
		also(rec)
	})
	if err != nil {
		e.log.Error("engine: record a running container", "id", c.id, "err", err)
	}
	e.logFailure("watch a container", c.id, e.oom.add(c, e.cgroupPath(c.id), e.oomKills(c.id)))
	e.work.Go(func() { e.watchEnd(c, r) })
	if c.record().Effective.Health != nil {
		e.work.Go(func() { e.watchHealth(ctx, c, r) })
	}
}

// etcPath is on the state disk and not among the runtime files: a container can
// write to these files, and must not be able to fill the memory with them.
func (c *container) etcPath() string { return filepath.Join(c.dir, "etc") }

// prepareBundle looks up all that the runtime's specification needs. The root
// must be mounted.
func (e *Engine) prepareBundle(ctx context.Context, c *container, rec record) (b bundle, err error) {
	b = bundle{ID: c.id, RootFS: e.rootPath(c.id), Files: c.etcPath(), CgroupPath: path.Join(e.opts.CgroupParent, c.id), HostName: e.opts.Hostname}
	if err := os.MkdirAll(b.Files, 0o700); err != nil {
		return b, err
	}
	if err := e.writeEtc(b.Files, rec.Effective, NetworkResult{}); err != nil {
		return b, err
	}
	if b.Mounts, err = e.bindMounts(ctx, rec); err != nil {
		return b, err
	}
	root, err := openRootDir(b.RootFS)
	if err != nil {
		return b, err
	}
	defer root.Close()
	if b.User, b.Home, err = lookUpUser(root, rec.Effective.User, rec.Effective.GroupAdd); err != nil {
		return b, err
	}
	covered := false
	for _, m := range b.Mounts {
		covered = covered || rec.Effective.Workdir == m.Target || path.Dir(rec.Effective.Workdir) == m.Target
	}
	if covered {
		return b, nil // the shim makes it inside the mount
	}
	return b, root.mkdirAll(rec.Effective.Workdir, 0o755, int(b.User.UID), int(b.User.GID))
}

func (e *Engine) logUndo(c *container, err error) {
	if err != nil {
		e.log.Error("engine: clean up after a container", "id", c.id, "err", err)
	}
}

func (c *container) isGone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}

func truncate(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

// validText makes bytes of a container fit for a message.
func validText(b []byte) string { return strings.ToValidUTF8(string(b), "\uFFFD") }
