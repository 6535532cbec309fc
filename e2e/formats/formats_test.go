// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package formats promises that a machine starts from every format that `wherry
// build` makes, and that one started from the live medium touches no disk.
package formats

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"wherry.example/wherry/internal/host/image"
	"wherry.example/wherry/internal/vmtest"
)

var (
	once sync.Once
	dir  string
)

func TestMain(m *testing.M) {
	code := m.Run()
	if dir != "" {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// built is a file of the image of this checkout, in all formats.
func built(t *testing.T, name string) string {
	t.Helper()
	once.Do(func() {
		made, err := os.MkdirTemp("", "wherry-formats-")
		if err != nil {
			t.Fatal(err)
		}
		o := image.Options{Output: made, Formats: image.Formats, Progress: func(line string) { t.Log(line) }}
		if _, err := image.Build(t.Context(), o); err != nil {
			os.RemoveAll(made)
			t.Fatal(err)
		}
		dir = made
	})
	if dir == "" {
		t.Fatal("there is no image: its build failed")
	}
	return filepath.Join(dir, name)
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// The live medium starts from a drive for CDs and as a disk. The empty disk of the
// machine, which it would take for its state else, stays empty.
func TestISO(t *testing.T) {
	for name, c := range map[string]struct {
		stick  bool
		medium string
	}{"CD": {false, "sr0"}, "stick": {true, "vda"}} {
		t.Run(name, func(t *testing.T) {
			u := vmtest.NewUser(t)
			m := vmtest.Start(t, vmtest.Options{CDROM: built(t, "wherry.iso"), CDROMStick: c.stick, DiskBytes: 1 << 30, Config: u.Config()})
			u.Knows(m)
			if out := u.Run("status"); m.Ready().State != "memory" || !strings.Contains(out, "live medium "+c.medium) {
				t.Errorf("state %s:\n%s", m.Ready().State, out)
			}
			m.Kill()
			if out := run(t, "qemu-img", "map", "-f", "raw", "--output=json", filepath.Join(m.VM().Dir(), "state.img")); strings.Contains(out, `"data": true`) {
				t.Errorf("the machine wrote to its disk: %s", out)
			}
		})
	}
}
