// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

func sleeper(t *testing.T) (*exec.Cmd, *pidfd) {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	p, err := openPidfd(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return cmd, p
}

func TestPidfd(t *testing.T) {
	cmd, p := sleeper(t)
	if err := p.signal(0); err != nil {
		t.Fatal(err)
	}
	if err := p.signal(unix.Signal(200)); err == nil || errors.Is(err, os.ErrProcessDone) {
		t.Errorf("signal 200: %v", err)
	}
	if err := p.signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	if err := p.signal(unix.SIGKILL); err != os.ErrProcessDone {
		t.Errorf("signal to one that has ended: %v", err)
	}
}

// A signal that comes late must not hit the process that has the descriptor now.
func TestClosedPidfd(t *testing.T) {
	_, late := sleeper(t)
	late.close()
	for range 8 { // one of them has the number
		_, other := sleeper(t)
		if err := late.signal(unix.SIGKILL); err != os.ErrProcessDone {
			t.Errorf("signal after close: %v", err)
		}
		if err := other.signal(0); err != nil {
			t.Errorf("another process was hit: %v", err)
		}
	}
}
