// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// start runs a created process.
func (c *container) start(t *task) error {
	t.op.Lock()
	defer t.op.Unlock()
	if p, _, _ := t.view(); p != created {
		return fmt.Errorf("the process was started already: %w", errdefs.ErrFailedPrecondition)
	}
	if t.exec == "" {
		return c.release(t)
	}
	return c.startExec(t)
}

// execFIFO is libcontainer's: the container's first process waits until
// someone reads from it, then becomes the user's program. Its absence says that it did.
const execFIFO = "exec.fifo"

// release lets the first process go on. Unlike libcontainer's Exec it waits
// on no thread, and not for a process that dies meanwhile.
func (c *container) release(t *task) error {
	path := filepath.Join(c.stateDir, execFIFO)
	fd, err := openFIFO(path, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return fmt.Errorf("start the container: %w", err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-t.done:
			f.SetReadDeadline(time.Unix(1, 0))
		case <-over:
		}
	}()
	if err := awaitByte(f); err != nil {
		return fmt.Errorf("the container's first process ended before its program was started: %w", errdefs.ErrFailedPrecondition)
	}
	t.setPhase(running)
	return os.Remove(path)
}

// awaitByte reads one byte. A FIFO without a writer is at its end for read,
// but nothing happens at it for the poller.
func awaitByte(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = conn.Read(func(fd uintptr) bool {
		var b [1]byte
		n, err := retry(func() (int, error) { return unix.Read(int(fd), b[:]) })
		if err == unix.EAGAIN || err == nil && n == 0 {
			return false
		}
		failure = err
		return true
	})
	return errors.Join(err, failure)
}

// addExec describes a further process.
func (s *Server) addExec(c *container, name string, spec *specs.Process, io names) error {
	if err := checkProcess(spec); err != nil {
		return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	p, err := processOf(spec, false)
	if err != nil {
		return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone || c.init.ended() {
		return fmt.Errorf("container %s has ended: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	if c.execs[name] != nil {
		return fmt.Errorf("process %s: %w", name, errdefs.ErrAlreadyExists)
	}
	pipes, err := keep(io)
	if err != nil {
		return err
	}
	rec := record{Stage: stageReady, IO: io}
	path := s.recordPath(c.id, name)
	if err := rec.write(path); err != nil {
		pipes.close()
		return err
	}
	t := newTask(c.id, name, path, rec, pipes)
	t.plan = p
	c.execs[name] = t
	return nil
}

// startExec starts a further process. Its number is written down right after;
// a death of this process in between leaves it running and unknown.
func (c *container) startExec(t *task) error {
	p := t.plan
	t.plan = nil
	if p == nil {
		return fmt.Errorf("the process's description was lost: %w", errdefs.ErrFailedPrecondition)
	}
	if c.init.ended() {
		t.end(exit{Code: unknownExit, At: time.Now()})
		return fmt.Errorf("container %s has ended: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	c.freezing.RLock()
	defer c.freezing.RUnlock()
	if c.isPaused() {
		t.plan = p
		return fmt.Errorf("container %s is paused: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	if err := t.launch(c.lc, p, func() {}); err != nil {
		t.end(exit{Code: unknownExit, At: time.Now()})
		return err
	}
	t.setPhase(running)
	return nil
}

// kill sends a signal to a process, or to all of the container.
func (c *container) kill(t *task, sig unix.Signal, all bool) error {
	if sig <= 0 || sig > 64 {
		return fmt.Errorf("signal %d: %w", sig, errdefs.ErrInvalidArgument)
	}
	if !all {
		return t.signal(sig)
	}
	if sig == unix.SIGKILL {
		return c.killAll()
	}
	pids, err := c.lc.Processes()
	for _, pid := range pids {
		unix.Kill(pid, sig) // one that ended meanwhile needs no signal
	}
	return err
}

func (c *container) pause(on bool) error {
	if c.init.ended() {
		return fmt.Errorf("container %s has ended: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	c.freezing.Lock()
	defer c.freezing.Unlock()
	if c.isPaused() == on {
		return nil
	}
	change := c.lc.Resume
	if on {
		change = c.lc.Pause
	}
	if err := change(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = on
	return nil
}

func (c *container) isPaused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paused
}

func (t *task) resize(columns, rows uint32) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tty == nil {
		return fmt.Errorf("the process has no terminal: %w", errdefs.ErrFailedPrecondition)
	}
	return t.tty.resize(columns, rows)
}

func (c *container) update(r *specs.LinuxResources) error {
	config := c.lc.Config()
	group := *config.Cgroups
	res := *config.Cgroups.Resources
	applyResources(&res, r)
	group.Resources = &res
	config.Cgroups = &group
	return c.lc.Set(config)
}

// remove forgets an ended process, with a container's first one the container.
func (s *Server) remove(c *container, t *task) error {
	t.op.Lock()
	defer t.op.Unlock()
	p, _, _ := t.view()
	switch {
	case p == stopped:
	case p == created && t.exec != "":
		t.end(exit{Code: unknownExit, At: time.Now()})
	default:
		return fmt.Errorf("the process runs: %w", errdefs.ErrFailedPrecondition)
	}
	if t.exec != "" {
		return c.removeExec(t)
	}
	return s.destroy(c)
}

func (c *container) removeExec(t *task) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.execs[t.exec] != t { // was removed; its name may be another's by now
		return nil
	}
	delete(c.execs, t.exec)
	t.release()
	return ignoreMissing(os.Remove(t.path))
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// destroy removes all that is left of a container. It can be repeated after a failure.
func (s *Server) destroy(c *container) error {
	c.mu.Lock()
	c.gone = true // no new execs
	absent := c.absent
	c.mu.Unlock()
	if absent { // by another call; its name may be another's by now
		return fmt.Errorf("container %s: %w", c.id, errdefs.ErrNotFound)
	}
	c.killAll()
	for _, t := range c.execTasks() {
		if p, _, _ := t.view(); p == running {
			<-t.done
		}
		c.removeExec(t)
	}
	if err := c.lc.Destroy(); err != nil && !errors.Is(err, libcontainer.ErrNotExist) {
		return err
	}
	if err := os.RemoveAll(s.taskDir(c.id)); err != nil {
		return err
	}
	c.init.release()
	c.mu.Lock()
	c.absent = true
	c.mu.Unlock()
	s.settle(c.id, nil)
	return nil
}
