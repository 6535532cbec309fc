// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/internal/vmtest"
	"wherry.example/wherry/internal/vmtest/fixture"
)

const (
	verified = "the OS image is on the state disk, verified"
	repaired = "the copy of the OS image on the state disk was damaged; it was written again"
)

// A machine with little memory reads its OS from the state disk soon after it
// is ready, through all its ends, and never a byte that is not the image's.
func TestOSImage(t *testing.T) {
	u := vmtest.NewUser(t)
	m := vmtest.Start(t, vmtest.Options{Config: u.Config("sysctls: {kernel.panic: 1}\n"), Cmdline: vmtest.ChaosCmdline})
	u.Knows(m)
	before := used(t, u)
	await(t, u, true, verified)
	// wherryd, too, has just worked, and gives its own memory back when it is at rest.
	gained := 0.0
	for end := time.Now().Add(time.Minute); gained < 10e6 && time.Now().Before(end); time.Sleep(2 * time.Second) {
		gained = before - used(t, u)
	}
	if t.Logf("it gained %.1f MB", gained/1e6); gained < 10e6 {
		t.Error("that is not enough")
	}
	if text := osImageLog(u); len(text) != 1 || !strings.Contains(text[0], "moved from memory") {
		t.Errorf("the log tells %q", text)
	}
	u.Run("load", "-i", fixture.Archive(t, tools, fixture.Toybox(t)))
	u.Run("run", "-d", "--name", "clock", "--restart", "always", tools, "tick", "100")

	t.Run("wherryd is killed", func(t *testing.T) {
		m.KillDaemon()
		u.In(t).AwaitAPI(time.Minute)
		await(t, u.In(t), true, verified)
		if text := osImageLog(u); len(text) != 0 {
			t.Errorf("the log of the new wherryd tells %q", text)
		}
	})
	t.Run("orderly end", func(t *testing.T) {
		began := time.Now()
		m.Stop()
		inOrder(t, m.Console())
		repair(t, m)
		t.Logf("the end and its check took %v", time.Since(began).Round(time.Second))
		m.Start()
		await(t, u.In(t), true, verified)
		if log := u.In(t).Run("machine", "log", "--kernel"); !strings.Contains(log, "Ending clean mount") || strings.Contains(log, "ecovery") {
			t.Errorf("the state was not clean:\n%s", regexp.MustCompile(`(?m)^.*XFS.*$`).FindAllString(log, -1))
		}
		runs(t, u.In(t))
	})
	t.Run("power cut", func(t *testing.T) {
		m.Kill()
		m.Start()
		await(t, u.In(t), true, verified)
		runs(t, u.In(t))
	})
	t.Run("damage while it is off", func(t *testing.T) {
		m.Stop()
		damage(t, m, 100)
		m.Start()
		await(t, u.In(t), false, repaired)
		runs(t, u.In(t))
		m.Stop()
		inOrder(t, m.Console())
		m.Start()
		await(t, u.In(t), true, verified)
	})
	t.Run("damage while it runs", func(t *testing.T) {
		damage(t, m, -1)
		// What is in memory is good; a module that was never loaded has to be read. The answer may not come.
		document := filepath.Join(t.TempDir(), "machine.yaml")
		if err := os.WriteFile(document, u.Config("sysctls: {vm.drop_caches: 3}\nmodules: [wireguard]\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		u.In(t).Try("machine", "config", "apply", document)
		m.WaitConsole(`(?s)dm-verity device corrupted.*Rebooting in.*wherry: ready `, 3*time.Minute)
		await(t, u.In(t), false, repaired)
		runs(t, u.In(t))
	})
	m.Stop()
	repair(t, m)
}

// Where memory is not scarce, or there is no disk, the image stays where it was.
func TestOSImageStays(t *testing.T) {
	u := vmtest.NewUser(t)
	m := vmtest.Start(t, vmtest.Options{Config: u.Config(), NoDisk: true})
	u.Knows(m)
	await(t, u, true, "the OS image is in memory: there is no state disk")
	m.Stop()
	m = vmtest.Start(t, vmtest.Options{Config: u.Config(), Name: "large", MemoryMiB: 1280})
	u.Knows(m)
	await(t, u, true, "the OS image is in memory")
	document := filepath.Join(t.TempDir(), "machine.yaml")
	if err := os.WriteFile(document, u.Config("storage: {osImage: disk}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	u.Run("machine", "config", "apply", document)
	await(t, u, true, verified)
	if err := os.WriteFile(document, u.Config("storage: {osImage: memory}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	u.Run("machine", "config", "apply", document)
	await(t, u, true, verified+"; in memory from the next start on")
	m.Stop()
	inOrder(t, m.Console())
}

const tools = "localhost/tools:1"

func runs(t *testing.T, u *vmtest.User) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); u.Try("ps", "-q", "--filter", "name=clock").Stdout == ""; time.Sleep(300 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the container does not run")
		}
	}
	if out := u.Run("run", "--rm", tools, "echo", "hello"); out != "hello\n" {
		t.Errorf("a container says %q", out)
	}
}

// inOrder reads the last end off the console: nothing had to be forced.
func inOrder(t *testing.T, console string) {
	t.Helper()
	end := strings.LastIndex(console, "stopping wherryd")
	if end < 0 {
		t.Fatal("the console does not show the end")
	}
	for _, bad := range []string{"still in use", "still there", "SIGKILL", "takes too long", "read-only", "I/O error"} {
		if strings.Contains(console[end:], bad) {
			t.Errorf("the console shows %q", bad)
		}
	}
}

type statusAnswer struct {
	Memory struct {
		TotalBytes, AvailableBytes json.Number
	}
	Subsystems []struct {
		Name, Message string
		Ready         bool
	}
}

func status(t *testing.T, u *vmtest.User) (s statusAnswer) {
	t.Helper()
	if err := json.Unmarshal([]byte(u.Run("status", "-o", "json")), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func used(t *testing.T, u *vmtest.User) float64 {
	t.Helper()
	s := status(t, u)
	total, err1 := s.Memory.TotalBytes.Float64()
	available, err2 := s.Memory.AvailableBytes.Float64()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return total - available
}

// await waits until the status says this of the OS image.
func await(t *testing.T, u *vmtest.User, ready bool, message string) {
	t.Helper()
	said := ""
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(500 * time.Millisecond) {
		for _, s := range status(t, u).Subsystems {
			if s.Name != "os image" {
				continue
			}
			if said = s.Message; s.Ready == ready && strings.HasPrefix(said, message) {
				return
			}
		}
	}
	t.Fatalf("the status says %q of the OS image, not %q", said, message)
}

func osImageLog(u *vmtest.User) []string {
	return regexp.MustCompile(`(?m)^.*msg="the OS image.*$`).FindAllString(u.Run("machine", "log"), -1)
}

// damage changes one byte of that block of the OS image on the state disk; -1: one of every block.
func damage(t *testing.T, m *vmtest.Machine, block int) {
	t.Helper()
	const blockBytes = 4096
	image, err := os.ReadFile(filepath.Join(vmtest.Image(t), "root.squashfs"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(m.VM().Dir(), "state.img")
	disk, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The file is one extent on a disk as empty as this one.
	start := bytes.Index(disk, image)
	if start < 0 {
		t.Fatal("the OS image is not on the state disk")
	}
	first, last := block, block
	if block < 0 {
		first, last = 1, len(image)/blockBytes-1
	}
	for ; first <= last; first++ {
		at := start + first*blockBytes
		writeAt(t, path, []byte{disk[at] ^ 1}, int64(at))
	}
}
