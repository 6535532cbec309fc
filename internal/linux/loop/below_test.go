// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package loop

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree is a /sys in which a loop device lies on dm-verity, which lies on another loop device.
func tree(t *testing.T) string {
	t.Helper()
	sys := t.TempDir()
	for name, text := range map[string]string{
		"class/block/loop0/loop/backing_file": "/dev/dm-0\n",
		"class/block/dm-0/slaves/loop1/dev":   "7:1\n",
		"class/block/loop1/loop/backing_file": "/state/machine/osimage/root\n",
		"class/block/loop2/loop/backing_file": "/dev/loop2\n",
		"class/block/vda/dev":                 "254:0\n",
		"devices/virtual/block/loop0/dev":     "7:0\n",
	} {
		path := filepath.Join(sys, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(sys, "dev/block"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../devices/virtual/block/loop0", filepath.Join(sys, "dev/block/7:0")); err != nil {
		t.Fatal(err)
	}
	return sys
}

func TestBelow(t *testing.T) {
	sys := tree(t)
	if got := Name(sys, "7:0"); got != "loop0" {
		t.Errorf("7:0 is %q", got)
	}
	if got := Name(sys, "0:5"); got != "" {
		t.Errorf("0:5 is %q", got)
	}
	for name, want := range map[string][]string{
		"loop0": {"/state/machine/osimage/root"},
		"dm-0":  {"/state/machine/osimage/root"},
		"loop2": nil, // a circle, which the kernel does not make
		"vda":   nil,
		"":      nil,
	} {
		if diff := cmp.Diff(want, Files(sys, name)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
