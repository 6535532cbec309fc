// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package vm promises that a virtual machine starts, can be reached, loses its
// power, comes back with the same settings, and is switched off in order.
package vm

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/internal/host/qemu"
	"wherry.example/wherry/internal/vmtest"
)

func TestLifeOfAMachine(t *testing.T) {
	m := vmtest.Start(t, vmtest.Options{Config: []byte("version: v1\nname: lively\n")})
	first := m.API()
	t.Run("a second start is refused", func(t *testing.T) {
		if err := m.TryStart(); !errors.Is(err, qemu.ErrRunning) {
			t.Fatal(err)
		}
	})
	port := m.Forward("tcp", 4711)
	t.Run("a forward listens at once and refuses to lead elsewhere", func(t *testing.T) {
		dial(t, port)
		if _, err := m.VM().Forward(t.Context(), "tcp", "", port, 4712); err == nil {
			t.Fatal("one host port leads to two ports")
		}
	})
	t.Run("a taken host port is named", func(t *testing.T) {
		taken := listen(t)
		_, err := m.VM().Forward(t.Context(), "tcp", "", taken, 80)
		if err == nil || !strings.Contains(err.Error(), "in use") {
			t.Fatal(err)
		}
	})
	t.Run("the console can be joined", func(t *testing.T) { joinConsole(t, m) })
	m.Kill()
	if _, running := m.VM().Run(); running {
		t.Fatal("it runs after its power was cut")
	}
	m.Start()
	if m.API() != first {
		t.Errorf("the API moved from %s to %s", first, m.API())
	}
	dial(t, port)
	m.Stop()
	if _, err := os.Stat(m.VM().Dir() + "/console.log"); err != nil {
		t.Errorf("the console's log is gone: %v", err)
	}
}

// A machine that cannot start says why, and leaves no QEMU behind.
func TestFailedStarts(t *testing.T) {
	for _, c := range []struct {
		name    string
		options vmtest.Options
		want    string
	}{
		{"PID 1 is not there", vmtest.Options{NoDisk: true, Cmdline: "rdinit=/nonexistent"}, "initramfs"},
		{"QEMU refuses", vmtest.Options{NoDisk: true, Args: []string{"-device", "nonexistent"}}, "nonexistent"},
		{"too little memory", vmtest.Options{NoDisk: true, MemoryMiB: 128, Cmdline: "mem=40M", Timeout: 40 * time.Second}, "memory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := vmtest.New(t, c.options)
			err := m.TryStart()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error does not tell %q: %v", c.want, err)
			}
			if _, running := m.VM().Run(); running {
				t.Error("QEMU still runs")
			}
		})
	}
}

func joinConsole(t *testing.T, m *vmtest.Machine) {
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := m.VM().Attach(ctx, strings.NewReader("\r\n"), &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), m.Fingerprint()) {
		t.Errorf("the console's end was not shown: %q", out.String())
	}
}

func dial(t *testing.T, port uint16) {
	t.Helper()
	conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func listen(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return uint16(l.Addr().(*net.TCPAddr).Port)
}
