// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/creack/pty"
)

// terminal is a pseudo-terminal in which the CLI runs.
type terminal struct {
	g    *rig
	pty  *os.File
	cmd  *exec.Cmd
	done chan struct{}
	mu   sync.Mutex
	text strings.Builder
}

// open runs the CLI in a terminal of 80 columns and 25 rows.
func (g *rig) open(args ...string) *terminal {
	g.t.Helper()
	t := &terminal{g: g, cmd: g.Command(args...), done: make(chan struct{})}
	var err error
	if t.pty, err = pty.StartWithSize(t.cmd, &pty.Winsize{Cols: 80, Rows: 25}); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { t.pty.Close() })
	go t.read()
	return t
}

func (t *terminal) read() {
	defer close(t.done)
	buf := make([]byte, 4096)
	for {
		n, err := t.pty.Read(buf)
		t.mu.Lock()
		t.text.Write(buf[:n])
		t.mu.Unlock()
		if err != nil {
			return // the program closed it
		}
	}
}

func (t *terminal) screen() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

func (t *terminal) types(text string) {
	t.g.t.Helper()
	if _, err := t.pty.WriteString(text); err != nil {
		t.g.t.Fatal(err)
	}
}

func (t *terminal) shows(want string) {
	t.g.t.Helper()
	t.g.await(30*time.Second, "on the screen: "+want, func() (bool, string) { return strings.Contains(t.screen(), want), t.screen() })
}

// echoes types until an answer comes: what is typed before the CLI listens is lost.
func (t *terminal) echoes(word string) {
	t.g.t.Helper()
	t.g.await(30*time.Second, "an answer", func() (bool, string) {
		t.types("echo " + word + "\r")
		time.Sleep(time.Second)
		return strings.Contains(t.screen(), "\r\n"+word), t.screen()
	})
}

// ends waits for the program and returns its exit code.
func (t *terminal) ends() int {
	t.g.t.Helper()
	select {
	case <-t.done:
	case <-time.After(30 * time.Second):
		t.g.t.Fatalf("it does not end:\n%s", t.screen())
	}
	var exit *exec.ExitError
	if err := t.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.g.t.Fatal(err)
	}
	return t.cmd.ProcessState.ExitCode()
}

// execTerminal types, resizes, interrupts and leaves.
func execTerminal(g *rig) {
	g.start("box", "", "sleep", "inf")
	t := g.open("exec", "-it", "box", "/toybox", "shell")
	t.shows("ready\r\n")
	t.types("tty\r")
	t.shows("tty 80x25 TERM=xterm\r\n")
	t.types("echo typed\x7f\x7f\x7f\x7f\x7f\x7f edited\r") // by the terminal inside
	t.shows("\r\nedited\r\n")
	t.types("exit 7\r")
	if code := t.ends(); code != 7 {
		g.t.Errorf("exit code %d", code)
	}

	t = g.open("exec", "-it", "box", "/toybox", "resize")
	t.shows("tty 80x25")
	if err := pty.Setsize(t.pty, &pty.Winsize{Cols: 132, Rows: 43}); err != nil {
		g.t.Fatal(err)
	}
	t.shows("tty 132x43")
	t.types("\x03") // goes inside, where it is an interrupt
	if code := t.ends(); code != 130 && code != 2 {
		g.t.Errorf("exit code %d after ctrl-C", code)
	}

	t = g.open("exec", "-it", "--detach-keys", "ctrl-x,q", "box", "/toybox", "shell")
	t.shows("ready\r\n")
	t.types("\x18q")
	if code := t.ends(); code != 0 {
		g.t.Errorf("exit code %d after the detach keys:\n%s", code, t.screen())
	}
	g.want(t.screen(), "detached")
	if !running(g.inspect("box")) {
		g.t.Error("the container ended with a session in it")
	}
	g.want(g.Run("top", "box"), "/toybox shell") // it was left, not ended
	if r := g.Try("exec", "-it", "box", "/toybox", "tty"); r.Code == 0 || !strings.Contains(r.Stderr, "not a terminal") {
		g.t.Errorf("-it without a terminal: %+v", r)
	}
	if r := g.Try("exec", "box", "/toybox", "tty"); r.Stdout != "not a tty\n" {
		g.t.Errorf("exec without -t: %+v", r)
	}
}

// attachDetach leaves a container with a terminal and comes back to it.
func attachDetach(g *rig) {
	t := g.open("run", "-it", "--name", "desk", g.tools(), "shell")
	t.shows("ready\r\n")
	t.types("tty\r")
	t.shows("tty 80x25")
	t.types("\x10\x11") // ctrl-p ctrl-q
	if code := t.ends(); code != 0 {
		g.t.Errorf("exit code %d after the detach keys", code)
	}
	if !running(g.inspect("desk")) {
		g.t.Fatal("the container ended when it was left")
	}
	// Left in order, cut off, and left again: its input stays open.
	for _, leave := range []func(*terminal){
		func(t *terminal) { t.types("\x10\x11") },
		func(t *terminal) { _ = t.cmd.Process.Kill() }, // ends() says when it did not work
		func(t *terminal) { t.types("\x10\x11") },
	} {
		t = g.open("attach", "desk")
		t.echoes("back again")
		leave(t)
		t.ends()
	}
	t = g.open("attach", "desk")
	t.echoes("for good")
	t.types("exit 9\r")
	if code := t.ends(); code != 9 {
		g.t.Errorf("attach ended with %d", code)
	}
	g.want(g.Run("logs", "desk"), "ready", "back again")
	g.awaitState("desk", "ended with 9", func(i inspected) bool { return exited(i) && i.Container.State.ExitCode == 9 })
}
