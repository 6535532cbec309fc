// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package fulldisk promises that a machine whose state disk is full does what
// one asks of it to make room, remembers it, says on its console what is wrong,
// and is well again when there is room.
package fulldisk

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/vmtest"
	"wherry.example/wherry/internal/vmtest/fixture"
)

const tools = "localhost/tools:1"

type machine struct {
	*vmtest.User
	m *vmtest.Machine
}

func TestFullDisk(t *testing.T) {
	x := machine{User: vmtest.NewUser(t)}
	config := x.Config()
	x.m = vmtest.Start(t, vmtest.Options{DiskBytes: 512 << 20, Config: config})
	x.Knows(x.m)
	x.Run("load", "-i", fixture.Archive(t, tools, fixture.Toybox(t)))
	for _, name := range []string{"hog", "stopped", "killed", "removed", "kept"} {
		x.Run("run", "-d", "--name", name, "--restart", "unless-stopped", "-v", name+":/data", tools, "sleep", "3600")
	}
	x.Run("volume", "create", "unused")

	// From a container's own layer, and from a volume.
	for _, file := range []string{"/all", "/data/all"} {
		if r := x.Try("exec", "hog", "/toybox", "fill", file, "4000"); r.Code == 0 || !strings.Contains(r.Stderr, "no space") {
			t.Fatalf("fill %s: %+v", file, r)
		}
	}
	if free := x.status(t).State.FreeBytes; free > 1<<20 {
		t.Fatalf("the disk is not full: %d bytes are free", free)
	}
	x.m.WaitConsole(`is full: remove`, time.Minute)

	x.Run("stop", "stopped")
	x.Run("kill", "killed")
	x.Run("rm", "-f", "removed")
	x.Run("volume", "rm", "removed", "unused")
	x.fill(t) // what that set free
	x.apply(t, config)
	x.Run("restart", "-t", "1", "kept")

	x.Run("machine", "reboot")
	x.m.WaitReboot()
	x.Knows(x.m).AwaitAPI(2 * time.Minute)
	x.remembers(t)

	x.Run("rm", "-f", "hog")
	x.Run("volume", "rm", "hog")
	// The space of a container is free a moment after it was removed.
	x.await(t, "there is room", func() bool { return x.status(t).State.FreeBytes > 100<<20 })
	if out := x.Run("run", "--rm", "-v", "fresh:/data", tools, "fill", "/data/some", "100"); !strings.Contains(out, "wrote 100 MiB") {
		t.Errorf("with room again: %s", out)
	}
	x.await(t, "the container that is to run runs", func() bool { return strings.Contains(x.Run("ps"), " kept") })
	x.await(t, "the machine sees that there is room", func() bool { return x.line(t, "storage").Ready })
}

func (x machine) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Second) {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long until %s", what)
		}
	}
}

func (x machine) status(t *testing.T) *wherryv1.GetStatusResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := x.Client(x.m).Machine.GetStatus(ctx, connect.NewRequest(&wherryv1.GetStatusRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	return r.Msg
}

func (x machine) line(t *testing.T, name string) *wherryv1.Subsystem {
	t.Helper()
	for _, s := range x.status(t).Subsystems {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no line %s on the board", name)
	return nil
}

func (x machine) fill(t *testing.T) {
	t.Helper()
	if r := x.Try("exec", "hog", "/toybox", "fill", "/more", "4000"); r.Code == 0 {
		t.Errorf("the disk is not full any more: %+v", r)
	}
}

// apply gives the machine a configuration that it never had on its disk.
func (x machine) apply(t *testing.T, config []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, append(config, "name: applied\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	x.Run("machine", "config", "apply", file)
}

// remembers wants everything as it was before the reboot.
func (x machine) remembers(t *testing.T) {
	t.Helper()
	if name := x.status(t).Name; name != "applied" {
		t.Errorf("the machine is called %s: the configuration was forgotten", name)
	}
	// What is to run may need room to start.
	want := map[string]string{"hog": "", "kept": "", "stopped": "Exited", "killed": "Exited"}
	out := x.Run("ps", "-a")
	for name, state := range want {
		found := false
		for line := range strings.Lines(out) {
			found = found || strings.Contains(line, " "+name) && strings.Contains(line, state)
		}
		if !found {
			t.Errorf("%s is not there, or not %q, in\n%s", name, state, out)
		}
	}
	if strings.Contains(out, "removed") {
		t.Errorf("a removed container is back:\n%s", out)
	}
	if out := x.Run("volume", "ls", "-q"); strings.Contains(out, "removed") || strings.Contains(out, "unused") || !strings.Contains(out, "kept") {
		t.Errorf("volumes:\n%s", out)
	}
}
