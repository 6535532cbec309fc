// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package tasks is the client of the shim: the one process that holds all
// containers of a machine (package shim, program wherry-shim).
//
// Protocol: containerd's task API, version 3, over ttrpc on the unix socket
// DIR/shim.sock. A task is a container's first process; execs are further
// processes of it. The shim is started by the first call that needs it, in a
// session of its own: it outlives this process, and the next life of this
// process finds it by its socket. When it dies, the next call starts another one, which
// takes the containers over; calls that can be repeated without harm are, the
// others answer ErrLost.
package tasks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
)

// ErrLost says that the shim died in the middle of a call whose outcome is
// therefore not known.
var ErrLost = errors.New("the process that holds the containers ended in the middle of a call")

// Options is what a Shim needs to know once.
type Options struct {
	Program string // absolute path of wherry-shim
	Dir     string // its state; dies with the boot
	Reaped  string // PID 1's record of orphans; empty: the program's default
	Log     *slog.Logger
}

// Shim is safe for concurrent use. It connects when it is needed.
type Shim struct {
	Options
	mu     sync.Mutex
	conn   *connection
	closed bool
}

// connection is one life of the shim, as seen from here.
type connection struct {
	client *ttrpc.Client
	api    taskapi.TTRPCTaskService
	over   chan struct{} // closes when the connection ends
}

// New does no I/O.
func New(o Options) *Shim { return &Shim{Options: o} }

// Close ends the connection. The shim goes on, and calls after it fail.
func (s *Shim) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.conn != nil {
		s.conn.client.Close()
	}
}

const (
	// startLimit bounds how long a new shim may take until it answers: it takes over all containers before that.
	startLimit = time.Minute
	dialPause  = 2 * time.Millisecond
	againPause = 100 * time.Millisecond
)

// call asks the shim. With again a call that the shim's death cut short is repeated.
func (s *Shim) call(ctx context.Context, again bool, f func(taskapi.TTRPCTaskService) error) error {
	for {
		c, err := s.connect(ctx)
		if err != nil {
			return err
		}
		err = f(c.api)
		if err == nil || ctx.Err() != nil || !c.lost(err) {
			return errgrpc.ToNative(err)
		}
		if !again {
			return ErrLost
		}
		select {
		case <-time.After(againPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// lost says whether err came from the connection and not from the shim.
func (c *connection) lost(err error) bool {
	if errors.Is(err, ttrpc.ErrClosed) {
		return true
	}
	return c.ended()
}

func (c *connection) ended() bool {
	select {
	case <-c.over:
		return true
	default:
		return false
	}
}

// connect returns the connection, after starting a shim if none answers.
func (s *Shim) connect(ctx context.Context) (*connection, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.New("the engine is closing")
	}
	if s.conn != nil && !s.conn.ended() {
		return s.conn, nil
	}
	conn, err := s.dial(ctx)
	if err != nil {
		if conn, err = s.start(ctx); err != nil {
			return nil, fmt.Errorf("start %s: %w", s.Program, err)
		}
	}
	c := &connection{over: make(chan struct{})}
	c.client = ttrpc.NewClient(conn, ttrpc.WithOnClose(func() { close(c.over) }))
	c.api = taskapi.NewTTRPCTaskClient(c.client)
	s.conn = c
	return c, nil
}

func (s *Shim) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", filepath.Join(s.Dir, "shim.sock"))
}

// start starts the program and waits until it answers.
func (s *Shim) start(ctx context.Context) (net.Conn, error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, err
	}
	args := []string{"serve", "--state", s.Dir}
	if s.Reaped != "" {
		args = append(args, "--reaped", s.Reaped)
	}
	cmd := exec.Command(s.Program, args...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s.Log.Debug("tasks: a shim was started", "pid", cmd.Process.Pid)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return s.await(ctx, ended)
}

// await dials until the shim answers. One that ends without an error found
// another one at work, which will answer.
func (s *Shim) await(ctx context.Context, ended <-chan error) (net.Conn, error) {
	limit := time.After(startLimit)
	for {
		conn, err := s.dial(ctx)
		if err == nil {
			return conn, nil
		}
		select {
		case failure := <-ended:
			if failure != nil {
				return nil, failure
			}
		case <-time.After(dialPause):
		case <-limit:
			return nil, fmt.Errorf("it does not answer: %w", err)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
