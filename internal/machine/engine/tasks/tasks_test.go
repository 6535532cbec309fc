// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package tasks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// peer is a shim that does what a test says. What a test does not set panics, which fails it.
type peer struct {
	taskapi.TTRPCTaskService
	state  func() (*taskapi.StateResponse, error)
	create func(*taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error)
	wait   func(context.Context) (*taskapi.WaitResponse, error)
	remove func() error
	killed atomic.Int32
}

func (p *peer) State(context.Context, *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	r, err := p.state()
	return r, errgrpc.ToGRPC(err)
}

func (p *peer) Create(_ context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	return p.create(r)
}

func (p *peer) Wait(ctx context.Context, _ *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	return p.wait(ctx)
}

func (p *peer) Delete(context.Context, *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	return &taskapi.DeleteResponse{}, errgrpc.ToGRPC(p.remove())
}

func (p *peer) Kill(_ context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	if r.Signal == uint32(unix.SIGKILL) && r.All {
		p.killed.Add(1)
	}
	return &emptypb.Empty{}, nil
}

// serve answers until stop is called, which cuts off calls under way as a death would.
func serve(t *testing.T, dir string, p *peer) (stop func()) {
	t.Helper()
	path := filepath.Join(dir, "shim.sock")
	os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	taskapi.RegisterTTRPCTaskService(s, p)
	go s.Serve(context.Background(), l)
	stop = func() { s.Close(); os.Remove(path) }
	t.Cleanup(stop)
	return stop
}

// program writes a shim that cannot be started.
func program(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "shim")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func newShim(t *testing.T, dir, script string) *Shim {
	t.Helper()
	s := New(Options{Program: program(t, script), Dir: dir, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(s.Close)
	return s
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "wt") // sockets live there: the path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestState(t *testing.T) {
	dir := shortDir(t)
	at := time.Unix(1000, 0).UTC()
	p := &peer{state: func() (*taskapi.StateResponse, error) {
		return &taskapi.StateResponse{Status: tasktypes.Status_STOPPED, Pid: 7, ExitStatus: 137, ExitedAt: timestamppb.New(at)}, nil
	}}
	serve(t, dir, p)
	s := newShim(t, dir, "exit 1")
	got, err := s.State(t.Context(), Process{Container: "a"})
	if diff := cmp.Diff(State{Phase: Stopped, Pid: 7, End: End{137, at}}, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	p.state = func() (*taskapi.StateResponse, error) { return nil, fmt.Errorf("a: %w", errdefs.ErrNotFound) }
	if _, err := s.State(t.Context(), Process{Container: "a"}); !errdefs.IsNotFound(err) {
		t.Errorf("a task that is not there: %v", err)
	}
}

// TestWaitOutlivesTheShim lets the shim die under a wait: the next one is asked.
func TestWaitOutlivesTheShim(t *testing.T) {
	dir := shortDir(t)
	waiting := make(chan struct{})
	stop := serve(t, dir, &peer{wait: func(ctx context.Context) (*taskapi.WaitResponse, error) {
		close(waiting)
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	s := newShim(t, dir, "exit 0") // another instance is at work, it says
	got := make(chan End, 1)
	go func() {
		e, err := s.Wait(context.Background(), Process{Container: "a"})
		if err != nil {
			t.Error(err)
		}
		got <- e
	}()
	<-waiting
	stop()
	serve(t, dir, &peer{wait: func(context.Context) (*taskapi.WaitResponse, error) { return &taskapi.WaitResponse{ExitStatus: 9}, nil }})
	select {
	case e := <-got:
		if e.Code != 9 {
			t.Errorf("exit code %d", e.Code)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the wait hangs")
	}
}

// TestCreateIsNotRepeated: the first one may have worked.
func TestCreateIsNotRepeated(t *testing.T) {
	dir := shortDir(t)
	var calls atomic.Int32
	die := make(chan struct{}, 2)
	stop := serve(t, dir, &peer{create: func(*taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
		calls.Add(1)
		die <- struct{}{}
		time.Sleep(200 * time.Millisecond)
		return &taskapi.CreateTaskResponse{}, nil
	}})
	go func() { <-die; stop() }()
	s := newShim(t, dir, "exit 0")
	_, err := s.Create(t.Context(), "a", filepath.Join(dir, "bundle"), &specs.Spec{}, Stdio{})
	if !errors.Is(err, ErrLost) || calls.Load() != 1 {
		t.Errorf("%d calls: %v", calls.Load(), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "bundle/config.json")); err != nil {
		t.Error(err)
	}
}

func TestShimThatDoesNotStart(t *testing.T) {
	s := newShim(t, shortDir(t), "exit 3")
	began := time.Now()
	_, err := s.State(t.Context(), Process{Container: "a"})
	if err == nil || time.Since(began) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	s.Close()
	if _, err := s.State(t.Context(), Process{Container: "a"}); err == nil {
		t.Error("a closed connection answers")
	}
}

func TestEnd(t *testing.T) {
	dir := shortDir(t)
	running := true
	p := &peer{
		remove: func() error {
			if running {
				return errdefs.ErrFailedPrecondition
			}
			return nil
		},
		wait: func(context.Context) (*taskapi.WaitResponse, error) {
			running = false
			return &taskapi.WaitResponse{}, nil
		},
	}
	serve(t, dir, p)
	s := newShim(t, dir, "exit 1")
	if err := s.End(t.Context(), Process{Container: "a"}); err != nil || p.killed.Load() != 1 {
		t.Errorf("%d kills: %v", p.killed.Load(), err)
	}
	if err := s.End(t.Context(), Process{Container: "a"}); err != nil || p.killed.Load() != 1 {
		t.Errorf("the end of what has ended: %d kills, %v", p.killed.Load(), err)
	}
	p.remove = func() error { return errdefs.ErrNotFound }
	if err := s.End(t.Context(), Process{Container: "a"}); err != nil {
		t.Errorf("the end of what is not known: %v", err)
	}
}
