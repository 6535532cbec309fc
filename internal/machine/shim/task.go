// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/linux/process"
)

// phase is where a process is in its life.
type phase int

const (
	created phase = iota
	running
	stopped
)

// task is one process: the first of a container, or an exec.
type task struct {
	id, exec string
	path     string // of its record
	io       *pipes
	op       sync.Mutex // one start, or delete, at a time

	mu    sync.Mutex
	rec   record
	phase phase
	pid   int
	hold  *handle // nil before the start and after the end
	tty   *terminal
	plan  *libcontainer.Process // of an exec that was not started
	done  chan struct{}         // closes when rec.Exit is set
}

func newTask(id, exec, path string, rec record, io *pipes) *task {
	return &task{id: id, exec: exec, path: path, rec: rec, io: io, done: make(chan struct{})}
}

// save changes the record, on disk first.
func (t *task) save(change func(*record)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rec
	change(&r)
	if err := r.write(t.path); err != nil {
		return err
	}
	t.rec = r
	return nil
}

func (t *task) setPhase(p phase) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.phase != stopped {
		t.phase = p
	}
}

// view is a consistent copy of what changes.
func (t *task) view() (phase, int, exit) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var e exit
	if t.rec.Exit != nil {
		e = *t.rec.Exit
	}
	return t.phase, t.pid, e
}

// handle means one process for ever, as its number does not.
type handle struct {
	fd   int
	file *os.File // the same in Go's poller, which no thread has to wait for
}

func openHandle(pid int) (*handle, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("hold process %d: %w", pid, err)
	}
	return &handle{fd: fd, file: os.NewFile(uintptr(fd), "pidfd")}, nil
}

func (h *handle) close() { h.file.Close() }

// over says whether the process has ended.
func (h *handle) over() bool {
	n, err := retry(func() (int, error) { return unix.Poll([]unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLIN}}, 0) })
	return err != nil || n > 0
}

// wait returns when the process has ended. No thread waits meanwhile.
func (h *handle) wait() error {
	c, err := h.file.SyscallConn()
	if err != nil {
		return err
	}
	return c.Read(func(uintptr) bool { return h.over() })
}

// watch waits for the end of a child and writes down how it ended before
// anyone can learn of it. after runs between the end and the word of it.
func (t *task) watch(h *handle, p *libcontainer.Process, after func()) {
	if err := h.wait(); err == nil {
		after()
	}
	e := exit{Code: exitCode(peek(h.fd)), At: time.Now()}
	t.save(func(r *record) { r.Exit = &e }) // without it PID 1 is asked after a death
	p.Wait()                                // reaps; the status is known
	t.drain()
	t.end(e)
}

// end tells of the end. The record may have it already.
func (t *task) end(e exit) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rec.Exit = &e
	t.phase = stopped
	if t.hold != nil {
		t.hold.close()
		t.hold = nil
	}
	close(t.done)
}

func (t *task) ended() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// signal reaches this process and no other.
func (t *task) signal(sig unix.Signal) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.phase == stopped {
		return fmt.Errorf("the process has ended: %w", errdefs.ErrNotFound)
	}
	if t.hold == nil {
		return fmt.Errorf("the process was not started: %w", errdefs.ErrFailedPrecondition)
	}
	err := unix.PidfdSendSignal(t.hold.fd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("the process has ended: %w", errdefs.ErrNotFound)
	}
	return err
}

// exitCode turns a wait status into what a shell would say.
func exitCode(s unix.WaitStatus) uint32 {
	if s.Signaled() {
		return 128 + uint32(s.Signal())
	}
	return uint32(s.ExitStatus())
}

// startTime tells processes with the same number apart; 0 when it is not known.
func startTime(pid int) uint64 {
	n, _ := process.StartTime(pid)
	return n
}
