// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"wherry.example/wherry/api/wherryv1"
)

// execOutcome collects what a command answers.
type execOutcome struct {
	out, err string
	code     int32
}

func (w *world) exec(ctx context.Context, o ExecOptions) (x execOutcome, err error) {
	x.code = -1
	err = w.Exec(ctx, o, func(m *wherryv1.ExecResponse) error {
		x.out += string(m.GetStdout())
		x.err += string(m.GetStderr())
		if c, ok := m.Message.(*wherryv1.ExecResponse_ExitCode); ok {
			x.code = c.ExitCode
		}
		return nil
	})
	return x, err
}

func TestExec(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	id := w.create("sleep")
	w.must(w.Start(ctx, id))
	for _, tt := range []struct {
		name  string
		start *wherryv1.ExecStart
		stdin string
		want  execOutcome
	}{
		{"separate streams and code", &wherryv1.ExecStart{Command: []string{"/probe", "both", "5"}}, "", execOutcome{"to out\n", "to err\n", 5}},
		{"user, directory, environment", &wherryv1.ExecStart{Command: []string{"/probe", "id"}, User: "ann", Workdir: "/tmp", Env: []string{"FOO=exec"}}, "",
			execOutcome{"1000 1000 [1000 2000] /tmp " + shortID(id) + " /home/ann exec\n", "", 0}},
		{"input", &wherryv1.ExecStart{Command: []string{"/probe", "cat"}, Stdin: true}, "hi\n", execOutcome{"hi\nend of input\n", "", 0}},
		{"terminal", &wherryv1.ExecStart{Command: []string{"/probe", "winsize", "99"}, Tty: true, Size: &wherryv1.TerminalSize{Columns: 99, Rows: 9}}, "",
			execOutcome{"99 columns\r\n", "", 0}},
	} {
		o := ExecOptions{Start: tt.start}
		o.Start.Container = id
		if tt.start.Stdin {
			o.Stdin = strings.NewReader(tt.stdin)
		}
		if got, err := w.exec(ctx, o); err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v, want %+v", tt.name, got, err, tt.want)
		}
	}
	got, err := w.exec(ctx, ExecOptions{Start: &wherryv1.ExecStart{Container: id, Command: []string{"nope"}}})
	if err != nil || got.code != 127 || got.err == "" {
		t.Errorf("missing command: %+v, %v", got, err)
	}
	if _, err := w.exec(ctx, ExecOptions{Start: &wherryv1.ExecStart{Container: id, Command: []string{"/probe"}, User: "bob"}}); KindOf(err) != KindInvalid {
		t.Errorf("missing user: %v", err)
	}
	brief, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	if _, err := w.exec(brief, ExecOptions{Start: &wherryv1.ExecStart{Container: id, Command: []string{"/probe", "stubborn"}}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a caller that hung up: %v", err)
	}
	w.eventually("the command is killed with its caller", func() bool { return readNumber(w.cgroupPath(id)+"/pids.current") <= 1 })
	pids, err := w.shim.Pids(ctx, id)
	if err != nil || len(pids) != 1 {
		t.Errorf("%d processes are left: %v", len(pids), err)
	}
}

// TestExecLeft leaves a command that writes more than a pipe holds: it must come to its end.
func TestExecLeft(t *testing.T) {
	w := newWorld(t)
	id := w.create("sleep")
	w.must(w.Start(t.Context(), id))
	leave, left := make(chan struct{}), make(chan error, 1)
	go func() {
		once := sync.OnceFunc(func() { close(leave) })
		left <- w.Exec(t.Context(), ExecOptions{Detach: leave, Start: &wherryv1.ExecStart{Container: id, Command: []string{"/probe", "lines", "20000", "0"}}},
			func(m *wherryv1.ExecResponse) error {
				if len(m.GetStdout()) > 0 {
					once()
				}
				return nil
			})
	}()
	w.must(<-left)
	w.eventually("the end of the command", func() bool { return readNumber(w.cgroupPath(id)+"/pids.current") <= 9 && w.execs(id) == 0 })
}

// execs counts the commands of a container that have left traces.
func (w *world) execs(id string) int {
	dirs, _ := filepath.Glob(filepath.Join(w.runPath(id), execPrefix+"*"))
	return len(dirs)
}

// TestEndIsToldFirst: who waited for the end finds it among the events.
func TestEndIsToldFirst(t *testing.T) {
	w := newWorld(t)
	for range 10 {
		id := w.create("exit", "3")
		w.must(w.Start(t.Context(), id))
		w.wait(id)
		var last string
		w.must(w.Events(t.Context(), &wherryv1.StreamEventsRequest{Since: timestamppb.New(time.Unix(0, 0)), Until: timestamppb.Now()}, func(ev *wherryv1.Event) error {
			if ev.Id == id {
				last = ev.Action
			}
			return nil
		}))
		if last != "die" {
			t.Fatalf("the last event of an ended container is %q", last)
		}
	}
}

func TestPause(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	id := w.create("lines", "100000", "1")
	if err := w.Pause(ctx, id); KindOf(err) != KindConflict {
		t.Errorf("pause of what does not run: %v", err)
	}
	w.must(w.Start(ctx, id))
	w.must(w.Pause(ctx, id))
	if s := w.state(id); s.Phase != phasePaused {
		t.Errorf("paused: %+v", s)
	}
	if err := w.Pause(ctx, id); KindOf(err) != KindConflict {
		t.Errorf("pause twice: %v", err)
	}
	if _, err := w.exec(ctx, ExecOptions{Start: &wherryv1.ExecStart{Container: id, Command: []string{"/probe", "id"}}}); KindOf(err) != KindConflict {
		t.Errorf("exec in a paused container: %v", err)
	}
	written := func() string { return w.output(id) }
	time.Sleep(100 * time.Millisecond) // what was on its way
	before := written()
	time.Sleep(200 * time.Millisecond)
	if after := written(); after != before {
		t.Errorf("a paused container wrote %d bytes", len(after)-len(before))
	}
	w.Close()
	w.boot() // it stays paused when the engine comes back
	if s := w.state(id); s.Phase != phasePaused {
		t.Errorf("after the engine's return: %+v", s)
	}
	w.must(w.Unpause(ctx, id))
	w.eventually("it goes on", func() bool { return len(written()) > len(before) })
	w.must(w.Pause(ctx, id))
	zero := time.Duration(0)
	w.must(w.Stop(ctx, id, "", &zero))
	if s := w.state(id); s.Phase != wherryv1.ContainerPhase_CONTAINER_PHASE_EXITED {
		t.Errorf("stop of a paused container: %+v", s)
	}
}

func TestTop(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	id := w.createSpec(&wherryv1.ContainerSpec{Command: []string{"sleep"}, User: "ann"})
	if _, err := w.Top(ctx, id); KindOf(err) != KindFailedPrecondition {
		t.Errorf("processes of what does not run: %v", err)
	}
	w.must(w.Start(ctx, id))
	w.untilOutput(id, "ready\n")
	list, err := w.Top(ctx, id)
	w.must(err)
	if len(list) != 1 {
		t.Fatalf("%d processes: %v", len(list), list)
	}
	p := list[0]
	if p.Command != "/probe sleep" || p.User != "ann" || p.UserId != 1000 || p.Pid != w.state(id).Pid || p.MemoryBytes == 0 || time.Since(p.StartedAt.AsTime()).Abs() > time.Minute {
		t.Errorf("%v", p)
	}
}
