// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// service answers the task API. It adds nothing but translation to Server.
type service struct{ s *Server }

// validID says whether id can be a file's name, and the name of one of our records.
// It is no regular expression: that would be compiled at each start of a container.
func validID(id string) bool {
	for i, c := range []byte(id) {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		case i > 0 && (c == '-' || c == '_' || c == '.'):
		default:
			return false
		}
	}
	return id != "" && len(id) <= maxID
}

const maxID = 128

// get waits for the end of a creation: who asked for it may have died, and wants
// to know in its next life what became of it.
func (s *Server) get(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		c, known := s.all[id]
		if c != nil {
			return c, nil
		}
		if !known {
			break
		}
		s.made.Wait()
	}
	return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
}

func (s *Server) task(id, exec string) (*container, *task, error) {
	c, err := s.get(id)
	if err != nil {
		return nil, nil, err
	}
	t, err := c.find(exec)
	return c, t, err
}

// reserve takes the id: a second creation fails, and this process does not end meanwhile.
func (s *Server) reserve(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.all[id]; taken {
		return fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	if s.quit {
		return fmt.Errorf("this process ends: %w", errdefs.ErrUnavailable)
	}
	s.all[id] = nil
	return nil
}

func (s *Server) settle(id string, c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c == nil {
		delete(s.all, id)
	} else {
		s.all[id] = c
	}
	s.made.Broadcast()
	s.trim.later()
}

func (v service) Create(_ context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if !validID(r.ID) || !filepath.IsAbs(r.Bundle) {
		return nil, errgrpc.ToGRPC(fmt.Errorf("container %q in %q: %w", r.ID, r.Bundle, errdefs.ErrInvalidArgument))
	}
	if len(r.Rootfs) > 0 || r.Checkpoint != "" {
		return nil, errgrpc.ToGRPC(fmt.Errorf("mounts and checkpoints: %w", errdefs.ErrNotImplemented))
	}
	if err := v.s.reserve(r.ID); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	c, err := v.s.create(r.ID, r.Bundle, names{Terminal: r.Terminal, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr})
	v.s.settle(r.ID, c)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &taskapi.CreateTaskResponse{Pid: uint32(c.init.pid)}, nil
}

func (v service) Start(_ context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	c, t, err := v.s.task(r.ID, r.ExecID)
	if err == nil {
		err = c.start(t)
	}
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	_, pid, _ := t.view()
	return &taskapi.StartResponse{Pid: uint32(pid)}, nil
}

func (v service) Exec(_ context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	if !validID(r.ExecID) {
		return nil, errgrpc.ToGRPC(fmt.Errorf("process %q: %w", r.ExecID, errdefs.ErrInvalidArgument))
	}
	c, err := v.s.get(r.ID)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	var spec specs.Process
	if err := json.Unmarshal(r.Spec.GetValue(), &spec); err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("read the process: %w: %w", errdefs.ErrInvalidArgument, err))
	}
	err = v.s.addExec(c, r.ExecID, &spec, names{Terminal: r.Terminal, Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr})
	return &emptypb.Empty{}, errgrpc.ToGRPC(err)
}

func (v service) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	c, t, err := v.s.task(r.ID, r.ExecID)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	ph, pid, e := t.view()
	io := t.rec.IO
	out := &taskapi.StateResponse{ID: r.ID, ExecID: r.ExecID, Bundle: c.bundle, Pid: uint32(pid), Status: c.status(ph),
		Stdin: io.Stdin, Stdout: io.Stdout, Stderr: io.Stderr, Terminal: io.Terminal}
	if ph == stopped {
		out.ExitStatus, out.ExitedAt = e.Code, timestamppb.New(e.At)
	}
	return out, nil
}

func (c *container) status(p phase) tasktypes.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case p == stopped:
		return tasktypes.Status_STOPPED
	case p == created:
		return tasktypes.Status_CREATED
	case c.paused:
		return tasktypes.Status_PAUSED
	}
	return tasktypes.Status_RUNNING
}

func (v service) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	_, t, err := v.s.task(r.ID, r.ExecID)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	select {
	case <-t.done:
	case <-ctx.Done():
		return nil, errgrpc.ToGRPC(ctx.Err())
	}
	_, _, e := t.view()
	return &taskapi.WaitResponse{ExitStatus: e.Code, ExitedAt: timestamppb.New(e.At)}, nil
}

func (v service) Kill(_ context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	c, t, err := v.s.task(r.ID, r.ExecID)
	if err == nil {
		err = c.kill(t, unix.Signal(r.Signal), r.All)
	}
	return &emptypb.Empty{}, errgrpc.ToGRPC(err)
}

func (v service) Delete(_ context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	c, t, err := v.s.task(r.ID, r.ExecID)
	if err == nil {
		err = v.s.remove(c, t)
	}
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	_, pid, e := t.view()
	return &taskapi.DeleteResponse{Pid: uint32(pid), ExitStatus: e.Code, ExitedAt: timestamppb.New(e.At)}, nil
}

func (v service) Pids(_ context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	c, err := v.s.get(r.ID)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	pids, err := c.lc.Processes()
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	out := &taskapi.PidsResponse{}
	for _, pid := range pids {
		out.Processes = append(out.Processes, &tasktypes.ProcessInfo{Pid: uint32(pid)})
	}
	return out, nil
}

func (v service) Pause(_ context.Context, r *taskapi.PauseRequest) (*emptypb.Empty, error) {
	c, err := v.s.get(r.ID)
	if err == nil {
		err = c.pause(true)
	}
	return &emptypb.Empty{}, errgrpc.ToGRPC(err)
}

func (v service) Resume(_ context.Context, r *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	c, err := v.s.get(r.ID)
	if err == nil {
		err = c.pause(false)
	}
	return &emptypb.Empty{}, errgrpc.ToGRPC(err)
}

func (v service) ResizePty(_ context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	_, t, err := v.s.task(r.ID, r.ExecID)
	if err == nil {
		err = t.resize(r.Width, r.Height)
	}
	return &emptypb.Empty{}, errgrpc.ToGRPC(err)
}

func (v service) CloseIO(_ context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	_, t, err := v.s.task(r.ID, r.ExecID)
	if err == nil && r.Stdin {
		// Recorded first: a new instance must not open it again.
		if err = t.save(func(r *record) { r.StdinClosed = true }); err == nil {
			t.io.closeStdin()
		}
	}
	return &emptypb.Empty{}, errgrpc.ToGRPC(err)
}

func (v service) Update(_ context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	c, err := v.s.get(r.ID)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	var res specs.LinuxResources
	if err := json.Unmarshal(r.Resources.GetValue(), &res); err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("read the resources: %w: %w", errdefs.ErrInvalidArgument, err))
	}
	return &emptypb.Empty{}, errgrpc.ToGRPC(c.update(&res))
}

func (v service) Connect(_ context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	c, err := v.s.get(r.ID)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid()), TaskPid: uint32(c.init.pid), Version: "v3"}, nil
}

func (v service) Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	// After the answer.
	time.AfterFunc(answerTime, func() { v.s.endIfEmpty() })
	return &emptypb.Empty{}, nil
}

// answerTime is enough for an answer on its way.
const answerTime = 50 * time.Millisecond

func (v service) Stats(context.Context, *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	return nil, errgrpc.ToGRPC(errUnused)
}

func (v service) Checkpoint(context.Context, *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, errgrpc.ToGRPC(errUnused)
}

var errUnused = errors.Join(errors.New("the engine reads cgroups itself and knows no checkpoints"), errdefs.ErrNotImplemented)
