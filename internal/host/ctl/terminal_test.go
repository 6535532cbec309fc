// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/term"
	"wherry.example/wherry/api/wherryv1"
)

type ctxt = context.Context

func tarOf(t *testing.T, files [][3]string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f[1], Mode: 0o644}
		switch f[0] {
		case "f":
			h.Size = int64(len(f[2]))
		case "l":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f[2]
		case "h":
			h.Typeflag, h.Linkname = tar.TypeLink, f[2]
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if f[0] == "f" {
			io.WriteString(w, f[2])
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

// screen is the far side of a pseudo-terminal: it types and reads.
type screen struct {
	*os.File
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) read() {
	buf := make([]byte, 4096)
	for {
		n, err := s.Read(buf)
		s.mu.Lock()
		s.text.Write(buf[:n])
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *screen) shows(t *testing.T, want string) {
	t.Helper()
	var got string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		got = s.text.String()
		s.mu.Unlock()
		if strings.Contains(got, want) {
			return
		}
	}
	t.Fatalf("the screen does not show %q:\n%q", want, got)
}

// withTerminal puts the rig's user in front of a terminal.
func (r *rig) withTerminal(t *testing.T, columns, rows uint16) (*screen, *os.File) {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := pty.Setsize(master, &pty.Winsize{Cols: columns, Rows: rows}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		master.Close()
		slave.Close()
	})
	s := &screen{File: master}
	go s.read()
	r.In, r.Out, r.Err = slave, slave, slave
	return s, slave
}

func isRaw(t *testing.T, tty *os.File) bool {
	t.Helper()
	state, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	restore, err := term.MakeRaw(int(tty.Fd())) // what it would be
	if err != nil {
		t.Fatal(err)
	}
	raw, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if err := term.Restore(int(tty.Fd()), restore); err != nil {
		t.Fatal(err)
	}
	return *state == *raw
}

// TestExecTerminal types into exec -it: control keys go inside, the exit code
// comes out, and the terminal is as before.
func TestExecTerminal(t *testing.T) {
	r := newRig(t)
	r.run("web")
	s, tty := r.withTerminal(t, 80, 24)
	done := make(chan error, 1)
	go func() {
		done <- r.Exec(t.Context(), &wherryv1.ExecStart{Container: "web", Command: []string{"cat"}, Tty: true, Stdin: true}, "ctrl-p,ctrl-q")
	}()
	io.WriteString(s, "hello")
	s.shows(t, "HELLO")
	if !isRaw(t, tty) {
		t.Error("the terminal is not in raw mode during the session")
	}
	io.WriteString(s, "\x03")
	s.shows(t, "\x03") // ctrl-c went inside
	io.WriteString(s, "\x04")
	if err := <-done; ExitCode(err) != 5 {
		t.Errorf("exit code %d: %v", ExitCode(err), err)
	}
	if isRaw(t, tty) {
		t.Error("the terminal was left in raw mode")
	}
}

func TestExecResize(t *testing.T) {
	r := newRig(t)
	r.run("web")
	s, _ := r.withTerminal(t, 80, 24)
	done := make(chan error, 1)
	go func() {
		done <- r.Exec(t.Context(), &wherryv1.ExecStart{Container: "web", Command: []string{"sizes"}, Tty: true, Stdin: true}, "")
	}()
	s.shows(t, "size 80x24")
	if err := pty.Setsize(s.File, &pty.Winsize{Cols: 120, Rows: 40}); err != nil {
		t.Fatal(err)
	}
	// This process does not have the terminal, so that the kernel does not tell it.
	if err := syscall.Kill(os.Getpid(), syscall.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	s.shows(t, "now 120x40")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestDetach(t *testing.T) {
	r := newRig(t)
	r.toy.ended = make(chan error, 1)
	r.run("web")
	s, tty := r.withTerminal(t, 80, 24)
	done := make(chan error, 1)
	go func() {
		done <- r.Exec(t.Context(), &wherryv1.ExecStart{Container: "web", Command: []string{"cat"}, Tty: true, Stdin: true}, "ctrl-p,ctrl-q")
	}()
	io.WriteString(s, "x")
	s.shows(t, "X")
	io.WriteString(s, "\x10\x11")
	if err := <-done; err != nil {
		t.Errorf("detaching: %v", err)
	}
	s.shows(t, "detached")
	if isRaw(t, tty) {
		t.Error("the terminal was left in raw mode")
	}
	select {
	case err := <-r.toy.ended: // the machine noticed that the caller left
		if err == nil {
			t.Error("the session ended as if its input had")
		}
	case <-time.After(10 * time.Second):
		t.Error("the session goes on without its caller")
	}
}

// TestDetachFromSilence leaves a session that has not said anything yet.
func TestDetachFromSilence(t *testing.T) {
	r := newRig(t)
	r.toy.ended = make(chan error, 1)
	r.run("web")
	s, tty := r.withTerminal(t, 80, 24)
	done := make(chan error, 1)
	go func() {
		done <- r.Exec(t.Context(), &wherryv1.ExecStart{Container: "web", Command: []string{"cat"}, Tty: true, Stdin: true}, "ctrl-p,ctrl-q")
	}()
	eventuallyRaw(t, tty)
	io.WriteString(s, "\x10\x11")
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("detaching: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the keys were not heard")
	}
	select {
	case err := <-r.toy.ended:
		if !errors.Is(err, errLeft) {
			t.Errorf("the machine was not told to leave the command running: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the session goes on without its caller")
	}
}

func eventuallyRaw(t *testing.T, tty *os.File) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !isRaw(t, tty); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no session")
		}
	}
}

// TestConnectionLost cuts the connection during a session in raw mode.
func TestConnectionLost(t *testing.T) {
	r := newRig(t)
	r.run("web")
	s, tty := r.withTerminal(t, 80, 24)
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- r.Exec(ctx, &wherryv1.ExecStart{Container: "web", Command: []string{"cat"}, Tty: true, Stdin: true}, "")
	}()
	io.WriteString(s, "x")
	s.shows(t, "X")
	cancel(&SignalError{syscall.SIGTERM})
	if err := <-done; ExitCode(err) != 143 {
		t.Errorf("exit code %d after SIGTERM: %v", ExitCode(err), err)
	}
	if isRaw(t, tty) {
		t.Error("the terminal was left in raw mode")
	}
}

// TestSignalProxy sends this process a signal while it is attached.
func TestSignalProxy(t *testing.T) {
	r := newRig(t)
	out := &screenWriter{}
	r.Out = out
	ctx, signals, stop := HandleSignals(t.Context())
	defer stop()
	r.Signals = signals
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx, aSpec("job", "nginx", "signals"), RunOptions{SigProxy: true}) }()
	out.waitFor(t, "waiting")
	if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := <-done; ExitCode(err) != 42 {
		t.Errorf("exit code %d: %v", ExitCode(err), err)
	}
	out.waitFor(t, "got SIGINT")
	if ctx.Err() != nil {
		t.Error("the signal ended the program too")
	}
	// Nobody is attached any more: the next one is for the program.
	if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	var sig *SignalError
	if !errors.As(context.Cause(ctx), &sig) || ExitCode(context.Cause(ctx)) != 130 {
		t.Errorf("cause %v", context.Cause(ctx))
	}
}

type screenWriter struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *screenWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *screenWriter) waitFor(t *testing.T, want string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		w.mu.Lock()
		ok := strings.Contains(w.b.String(), want)
		w.mu.Unlock()
		if ok {
			return
		}
	}
	t.Fatalf("%q was not written", want)
}
