// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package tty

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestDevices(t *testing.T) {
	for active, want := range map[string][]string{
		"tty0 ttyS0\n":    {"/dev/tty0", "/dev/ttyS0"},
		"ttyS0 ttyS0":     {"/dev/ttyS0"},
		"":                {"/dev/console"},
		"../etc/passwd\n": {"/dev/passwd"},
	} {
		if got := devices(active); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", active, got, want)
		}
	}
	if got := Active("/no/such"); !slices.Equal(got, []string{"/dev/console"}) {
		t.Errorf("without sysfs: %q", got)
	}
}

// TestConsolesPassOver: one console that is not there does not keep the others silent.
func TestConsolesPassOver(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tty")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := Consoles{Devices: []string{"/no/such", file}}.Write([]byte("hello"))
	b, _ := os.ReadFile(file)
	if n != 5 || err != nil || string(b) != "hello" {
		t.Errorf("%d, %v, %q", n, err, b)
	}
}
