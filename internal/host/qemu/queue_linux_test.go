// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestQueues: a QEMU that is stopped takes no connection, so that only those
// come about that the kernel keeps for it.
func TestQueues(t *testing.T) {
	port, err := freePort("tcp", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	q := exec.Command("qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none",
		"-netdev", fmt.Sprintf("user,id=net0,hostfwd=tcp:127.0.0.1:%d-:80", port))
	if err := q.Start(); err != nil {
		t.Fatal(err)
	}
	defer q.Wait()
	defer q.Process.Kill()
	start, err := processStart(q.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	awaitListening(t, address)
	if err := q.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	const many = 64
	t.Logf("of %d connections QEMU's own queue keeps %d", many, connectAtOnce(t, address, many))
	if err := lengthenQueues(q.Process.Pid, start); err != nil {
		t.Fatal(err)
	}
	if n := connectAtOnce(t, address, many); n != many {
		t.Errorf("%d of %d connections came about", n, many)
	}
	if err := lengthenQueues(q.Process.Pid, "another process's"); err != nil {
		t.Errorf("a process that has ended: %v", err)
	}
}

func awaitListening(t *testing.T, address string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp4", address)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// connectAtOnce tells how many connections come about before a sender would try again, after a second.
func connectAtOnce(t *testing.T, address string, n int) int {
	ctx, cancel := context.WithTimeout(t.Context(), 900*time.Millisecond)
	defer cancel()
	var came atomic.Int32
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			c, err := new(net.Dialer).DialContext(ctx, "tcp4", address)
			if err != nil {
				return
			}
			came.Add(1)
			t.Cleanup(func() { c.Close() })
		})
	}
	all.Wait()
	return int(came.Load())
}
