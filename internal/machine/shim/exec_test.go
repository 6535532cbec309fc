// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestExec(t *testing.T) {
	w := newWorld(t)
	b := w.run("sleep", "inf")
	x, err := b.addExec("one", false, "/toybox", "both", "1")
	w.must(err)
	if s := x.state(); s.Status != tasktypes.Status_CREATED {
		t.Errorf("before the start: %v", s)
	}
	if _, err := b.addExec("one", false, "/toybox", "true"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("the same name again: %v", err)
	}
	w.must(x.start())
	x.open()
	if code := x.wait(); code != 0 || x.out.all() != "out 1\n" || x.err.all() != "err 1\n" {
		t.Errorf("code %d, %q, %q", code, x.out.all(), x.err.all())
	}
	w.must(x.delete())
	if err := x.delete(); !errdefs.IsNotFound(err) {
		t.Errorf("second delete: %v", err)
	}

	x, err = b.addExec("two", false, "/toybox", "sleep", "inf")
	w.must(err)
	w.must(x.start())
	if err := x.delete(); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete of a running one: %v", err)
	}
	w.must(x.kill(unix.SIGKILL, false))
	if code := x.wait(); code != 137 {
		t.Errorf("code %d", code)
	}
	if b.state().Status != tasktypes.Status_RUNNING {
		t.Error("the container ended with its exec")
	}
	b.end() // with the ended exec in it
	w.checkNothingLeft()
}

func TestExecEndsWithItsContainer(t *testing.T) {
	w := newWorld(t)
	b := w.run("sleep", "inf")
	x, err := b.addExec("x", false, "/toybox", "sleep", "inf")
	w.must(err)
	w.must(x.start())
	w.must(b.kill(unix.SIGKILL, false))
	if code := x.wait(); code != 137 {
		t.Errorf("code %d", code)
	}
	b.wait()
	if _, err := b.addExec("y", false, "/toybox", "true"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("an exec in a dead one: %v", err)
	}
	w.must(b.delete())
	w.checkNothingLeft()
}

func TestExecErrorsKeepTheirWords(t *testing.T) {
	w := newWorld(t)
	b := w.run("sleep", "inf")
	for program, want := range map[string]string{
		"none":  `exec: "none": executable file not found in $PATH`,
		"/none": `exec: "/none": stat /none: no such file or directory`,
		"/text": `exec: "/text": permission denied`,
	} {
		x, err := b.addExec("x", false, program)
		w.must(err)
		if err := x.start(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %s, got %v", want, err)
		}
		if s := x.state(); s.Status != tasktypes.Status_STOPPED {
			t.Errorf("after that: %v", s)
		}
		w.must(x.delete())
	}
	b.end()
	w.checkNothingLeft()
}

func TestTerminal(t *testing.T) {
	w := newWorld(t)
	id := w.newID()
	spec := w.spec(id, "resize")
	spec.Process.Terminal = true
	spec.Process.ConsoleSize = &specs.Box{Width: 91, Height: 31}
	b := w.runSpec(id, spec)
	b.untilOutput("tty 91x31")
	_, err := w.api.ResizePty(w.ctx(), &taskapi.ResizePtyRequest{ID: id, Width: 77, Height: 22})
	w.must(err)
	b.untilOutput("tty 77x22")
	b.stdin.WriteString("typed\n")
	b.untilOutput("typed") // the echo
	b.stdin.WriteString("\x03")
	if code := b.wait(); code != 2 && code != 130 {
		t.Errorf("after ^C the code is %d", code)
	}
	w.must(b.delete())
	w.checkNothingLeft()
}

func TestTerminalOfExec(t *testing.T) {
	w := newWorld(t)
	b := w.run("sleep", "inf")
	x, err := b.addExec("x", true, "/toybox", "shell")
	w.must(err)
	w.must(x.start())
	x.open()
	x.untilOutput("ready")
	x.stdin.WriteString("tty\n")
	x.untilOutput("tty 0x0")
	x.stdin.WriteString("quit\n")
	if code := x.wait(); code != 0 {
		t.Errorf("code %d", code)
	}
	w.must(x.delete())
	b.end()
	w.checkNothingLeft()
}

// TestTerminalIsDrained: what was said right before the end is there, although nobody read until then.
func TestTerminalIsDrained(t *testing.T) {
	w := newWorld(t)
	for range 10 {
		id := w.newID()
		spec := w.spec(id, "spam", "300")
		spec.Process.Terminal = true
		b, err := w.create(spec, id)
		w.must(err)
		w.must(b.start())
		began := time.Now()
		b.wait()
		if d := time.Since(began); d > drainTime {
			t.Errorf("the end came after %v", d)
		}
		w.must(err)
		b.open()
		w.must(b.delete())
		if out := b.out.all(); !strings.HasSuffix(out, "line 300\r\n") {
			t.Fatalf("the output ends with %q", out[max(0, len(out)-30):])
		}
	}
}

// TestTerminalWithoutReader: the container waits, and goes on where it was.
func TestTerminalWithoutReader(t *testing.T) {
	w := newWorld(t)
	id := w.newID()
	spec := w.spec(id, "spam", "20000")
	spec.Process.Terminal = true
	b, err := w.create(spec, id)
	w.must(err)
	w.must(b.start())
	time.Sleep(500 * time.Millisecond)
	if s := b.state(); s.Status != tasktypes.Status_RUNNING {
		t.Fatalf("%v", s)
	}
	b.open()
	b.wait()
	w.must(b.delete())
	if out := b.out.all(); strings.Count(out, "line ") != 20000 {
		t.Errorf("%d lines", strings.Count(out, "line "))
	}
}
