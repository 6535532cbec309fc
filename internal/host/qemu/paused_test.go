// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// monitorOf answers as QEMU's monitor does: the machine is paused until it was
// told to go on `after` times.
func monitorOf(t *testing.T, vm *VM, after int) {
	t.Helper()
	l, err := net.Listen("unix", vm.path("qmp.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(conn, `{"QMP": {}}`)
			for in := bufio.NewScanner(conn); in.Scan(); {
				var m struct{ Execute string }
				if json.Unmarshal(in.Bytes(), &m) != nil {
					break
				}
				status := "running"
				if after > 0 {
					status = "io-error"
				}
				if m.Execute == "cont" {
					after--
				}
				fmt.Fprintf(conn, `{"return": {"status": %q}}`+"\n", status)
			}
			conn.Close()
		}
	}()
}

func TestPaused(t *testing.T) {
	vm := newTestVM(t)
	if err := vm.Paused(t.Context()); err != nil {
		t.Errorf("nobody answers: %v", err)
	}
	monitorOf(t, vm, 2)
	if err := vm.Paused(t.Context()); !errors.Is(err, ErrPaused) || !strings.Contains(err.Error(), vm.Dir()) {
		t.Errorf("paused: %v", err)
	}
	if err := vm.Resume(t.Context()); !errors.Is(err, ErrPaused) {
		t.Errorf("the disk is still full: %v", err)
	}
	if err := vm.Resume(t.Context()); err != nil {
		t.Errorf("there is space: %v", err)
	}
}

// A start does not wait for ever for a machine that QEMU paused.
func TestAwaitReadyOfPaused(t *testing.T) {
	vm := newTestVM(t)
	monitorOf(t, vm, 1)
	pid := os.Getpid()
	start, err := processStart(pid)
	if err != nil {
		t.Fatal(err)
	}
	_, err = vm.awaitReady(t.Context(), Run{PID: pid, ProcessStart: start, Accelerator: "tcg", StartedAt: time.Now()}, t.Output())
	if !errors.Is(err, ErrPaused) {
		t.Errorf("got %v", err)
	}
	if text := vm.startError(Run{}, err).Error(); !strings.Contains(text, "disk is full") || strings.Contains(text, "memory") {
		t.Errorf("the user reads: %s", text)
	}
}
