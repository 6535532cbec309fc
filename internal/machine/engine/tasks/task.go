// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package tasks

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Process names a process: the first of a container when Exec is empty.
type Process struct{ Container, Exec string }

// Stdio names the FIFOs of a process, which exist; empty ones are /dev/null. A
// terminal has no Stderr.
type Stdio struct {
	Terminal              bool
	Stdin, Stdout, Stderr string
}

// Phase is where a process is in its life.
type Phase int

const (
	Created Phase = iota
	Running
	Paused
	Stopped
)

// State is what the shim knows of a process.
type State struct {
	Phase Phase
	Pid   int
	End   End // when stopped
}

// End is how a process ended: its exit code or 128 plus the signal's number.
type End struct {
	Code int
	At   time.Time
}

// processSpecType is the name under which containerd's clients give the description of an exec.
const processSpecType = "types.containerd.io/opencontainers/runtime-spec/1/Process"

// bundleSpec is the OCI runtime specification's name of the file in a bundle.
const bundleSpec = "config.json"

// Create makes the container's first process exist up to the point before its
// first instruction. bundle is a directory that holds config.json from here
// until after Delete.
func (s *Shim) Create(ctx context.Context, id, bundle string, spec *specs.Spec, io Stdio) (pid int, err error) {
	b, err := json.Marshal(spec)
	if err != nil {
		return 0, err
	}
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(bundle, bundleSpec), b, 0o600); err != nil {
		return 0, err
	}
	err = s.call(ctx, false, func(api taskapi.TTRPCTaskService) error {
		r, err := api.Create(ctx, &taskapi.CreateTaskRequest{ID: id, Bundle: bundle, Terminal: io.Terminal, Stdin: io.Stdin, Stdout: io.Stdout, Stderr: io.Stderr})
		pid = int(r.GetPid())
		return err
	})
	return pid, err
}

// Exec describes a further process; Start runs it.
func (s *Shim) Exec(ctx context.Context, p Process, spec *specs.Process, io Stdio) error {
	b, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	return s.call(ctx, false, func(api taskapi.TTRPCTaskService) error {
		_, err := api.Exec(ctx, &taskapi.ExecProcessRequest{
			ID: p.Container, ExecID: p.Exec, Terminal: io.Terminal, Stdin: io.Stdin, Stdout: io.Stdout, Stderr: io.Stderr,
			Spec: &anypb.Any{TypeUrl: processSpecType, Value: b},
		})
		return err
	})
}

// Start lets a created process run.
func (s *Shim) Start(ctx context.Context, p Process) error {
	return s.call(ctx, false, func(api taskapi.TTRPCTaskService) error {
		_, err := api.Start(ctx, &taskapi.StartRequest{ID: p.Container, ExecID: p.Exec})
		return err
	})
}

// State answers for ended processes too, until they are deleted.
func (s *Shim) State(ctx context.Context, p Process) (st State, err error) {
	err = s.call(ctx, true, func(api taskapi.TTRPCTaskService) error {
		r, err := api.State(ctx, &taskapi.StateRequest{ID: p.Container, ExecID: p.Exec})
		if err != nil {
			return err
		}
		st = State{Phase: phases[r.Status], Pid: int(r.Pid), End: endOf(r.ExitStatus, r.ExitedAt)}
		return nil
	})
	return st, err
}

var phases = map[tasktypes.Status]Phase{
	tasktypes.Status_RUNNING: Running, tasktypes.Status_PAUSED: Paused, tasktypes.Status_PAUSING: Paused, tasktypes.Status_STOPPED: Stopped,
}

func endOf(code uint32, at *timestamppb.Timestamp) End {
	e := End{Code: int(code), At: time.Now()}
	if at != nil {
		e.At = at.AsTime()
	}
	return e
}

// Wait returns when the process has ended.
func (s *Shim) Wait(ctx context.Context, p Process) (end End, err error) {
	err = s.call(ctx, true, func(api taskapi.TTRPCTaskService) error {
		r, err := api.Wait(ctx, &taskapi.WaitRequest{ID: p.Container, ExecID: p.Exec})
		if err == nil {
			end = endOf(r.ExitStatus, r.ExitedAt)
		}
		return err
	})
	return end, err
}

// Kill sends a signal to one process.
func (s *Shim) Kill(ctx context.Context, p Process, sig unix.Signal) error {
	return s.call(ctx, true, func(api taskapi.TTRPCTaskService) error {
		_, err := api.Kill(ctx, &taskapi.KillRequest{ID: p.Container, ExecID: p.Exec, Signal: uint32(sig)})
		return err
	})
}

// Resize sets the size of a terminal.
func (s *Shim) Resize(ctx context.Context, p Process, columns, rows uint32) error {
	return s.call(ctx, true, func(api taskapi.TTRPCTaskService) error {
		_, err := api.ResizePty(ctx, &taskapi.ResizePtyRequest{ID: p.Container, ExecID: p.Exec, Width: columns, Height: rows})
		return err
	})
}

// CloseStdin lets the process see the end of its input once all writers are gone.
func (s *Shim) CloseStdin(ctx context.Context, p Process) error {
	return s.call(ctx, true, func(api taskapi.TTRPCTaskService) error {
		_, err := api.CloseIO(ctx, &taskapi.CloseIORequest{ID: p.Container, ExecID: p.Exec, Stdin: true})
		return err
	})
}

// Pids lists the processes of a container.
func (s *Shim) Pids(ctx context.Context, id string) (pids []int, err error) {
	err = s.call(ctx, true, func(api taskapi.TTRPCTaskService) error {
		r, err := api.Pids(ctx, &taskapi.PidsRequest{ID: id})
		pids = nil
		for _, p := range r.GetProcesses() {
			pids = append(pids, int(p.Pid))
		}
		return err
	})
	return pids, err
}

// Pause freezes all processes of a container; Resume lets them go on.
func (s *Shim) Pause(ctx context.Context, id string) error {
	return s.call(ctx, true, func(api taskapi.TTRPCTaskService) error {
		_, err := api.Pause(ctx, &taskapi.PauseRequest{ID: id})
		return err
	})
}

// Resume undoes Pause.
func (s *Shim) Resume(ctx context.Context, id string) error {
	return s.call(ctx, true, func(api taskapi.TTRPCTaskService) error {
		_, err := api.Resume(ctx, &taskapi.ResumeRequest{ID: id})
		return err
	})
}

// Delete makes the shim forget an ended process. One that it does not know is no error.
func (s *Shim) Delete(ctx context.Context, p Process) error {
	err := s.call(ctx, true, func(api taskapi.TTRPCTaskService) error {
		_, err := api.Delete(ctx, &taskapi.DeleteRequest{ID: p.Container, ExecID: p.Exec})
		return err
	})
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// End kills and deletes a process whatever its state.
func (s *Shim) End(ctx context.Context, p Process) error {
	err := s.Delete(ctx, p)
	if err == nil || !errdefs.IsFailedPrecondition(err) {
		return err
	}
	err = s.call(ctx, true, func(api taskapi.TTRPCTaskService) error {
		_, err := api.Kill(ctx, &taskapi.KillRequest{ID: p.Container, ExecID: p.Exec, Signal: uint32(unix.SIGKILL), All: p.Exec == ""})
		return err
	})
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
		return fmt.Errorf("kill: %w", err)
	}
	if _, err := s.Wait(ctx, p); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("wait for the end: %w", err)
	}
	return s.Delete(ctx, p)
}
