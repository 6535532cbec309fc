// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package hardening

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/linux/sysctl"
)

// TestTable holds the table to what the kernel and a reader need of it.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range Defaults() {
		if err := sysctl.Check(s.Name, s.Value); err != nil {
			t.Error(err)
		}
		if s.Value == "" || s.Why == "" {
			t.Errorf("%s: no value or no reason", s.Name)
		}
		if seen[s.Name] {
			t.Errorf("%s is there twice", s.Name)
		}
		seen[s.Name] = true
	}
	if len(seen) < 40 {
		t.Errorf("only %d settings", len(seen))
	}
}

// TestNamesExist looks for each setting that is not optional in the kernel that runs the test.
func TestNamesExist(t *testing.T) {
	if _, err := os.Stat("/proc/sys/kernel/kptr_restrict"); err != nil {
		t.Skip("no /proc/sys of a whole kernel here")
	}
	got := Observe(Defaults())
	for _, s := range Defaults() {
		// In a network namespace of its own a test does not see all of net.
		if _, ok := got[s.Name]; !ok && !s.Optional && !strings.HasPrefix(s.Name, "net.") {
			t.Errorf("%s: this kernel has no such setting", s.Name)
		}
	}
}

func TestPlanConfigurationWins(t *testing.T) {
	plan := Plan(map[string]string{"vm.overcommit_memory": "0", "vm.swappiness": "10"})
	values := map[string][]string{}
	for _, s := range plan {
		values[s.Name] = append(values[s.Name], s.Value)
	}
	for name, want := range map[string]string{"vm.overcommit_memory": "0", "vm.swappiness": "10", "kernel.kptr_restrict": "2"} {
		if got := values[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s is set to %v, want %s", name, got, want)
		}
	}
	if len(plan) != len(Defaults())+1 {
		t.Errorf("%d settings, want the defaults and one more", len(plan))
	}
}

// TestApplyReportsEach asks for two settings that can't be; both are logged and returned.
func TestApplyReportsEach(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("would change this machine's kernel")
	}
	var log bytes.Buffer
	err := Apply(slog.New(slog.NewTextHandler(&log, nil)), map[string]string{"kernel.no_such": "1", "../etc/passwd": "x"})
	for _, name := range []string{"kernel.no_such", "../etc/passwd"} {
		if err == nil || !bytes.Contains(log.Bytes(), []byte(name)) || !bytes.Contains([]byte(err.Error()), []byte(name)) {
			t.Errorf("%s is not reported: %v", name, err)
		}
	}
}

func TestSeed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "seed")
	if err := Seed(file); err != nil {
		t.Fatal("without a seed:", err)
	}
	first := read(t, file)
	if len(first) != 1+seedSize || first[0] != markGood {
		t.Fatalf("the first seed is %x", first)
	}
	err := Seed(file)
	second := read(t, file)
	if bytes.Equal(first, second) {
		t.Error("the seed was used and not replaced")
	}
	// Credit is the privilege of root, and not of every root in a container.
	if err != nil && !mayCredit() {
		t.Log("no right to credit entropy here:", err)
	} else if err != nil {
		t.Error(err)
	}
	if err := Save(file); err != nil || bytes.Equal(second, read(t, file)) {
		t.Error("Save:", err)
	}
}

// TestSeedGarbage must neither credit nor keep what is no seed.
func TestSeedGarbage(t *testing.T) {
	for _, content := range []string{"", "G", "Xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", string(make([]byte, 1<<20))} {
		file := filepath.Join(t.TempDir(), "seed")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Seed(file); err != nil {
			t.Errorf("%.10q: %v", content, err)
		}
		if b := read(t, file); len(b) != 1+seedSize {
			t.Errorf("%.10q: not replaced", content)
		}
	}
}

func mayCredit() bool {
	var hdr unix.CapUserHeader
	var data [2]unix.CapUserData
	hdr.Version = unix.LINUX_CAPABILITY_VERSION_3
	if unix.Capget(&hdr, &data[0]) != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReserve(t *testing.T) {
	for memory, want := range map[uint64]int{0: 1, 486 << 20: 1, smallMemory - 1: 1, smallMemory: 0, 64 << 30: 0} {
		if got := reserve(memory); len(got) != want {
			t.Errorf("%d bytes of memory: %v", memory, got)
		}
	}
}
