// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package atomicfile

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestWriteReplacesContentAndMode(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	path := filepath.Join(t.TempDir(), "record")
	for _, step := range []struct {
		data string
		perm os.FileMode
	}{{"first", 0o644}, {"second, longer", 0o600}, {"", 0o640}} {
		if err := Write(path, []byte(step.data), step.perm); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != step.data {
			t.Fatalf("content %q, %v; want %q", got, err, step.data)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != step.perm {
			t.Fatalf("mode %v, %v; want %v", info.Mode(), err, step.perm)
		}
	}
}

func TestFailedWriteKeepsOldAndLeavesNoTemporary(t *testing.T) {
	dir := t.TempDir()
	// A directory that is not empty cannot be replaced by a file.
	target := filepath.Join(dir, "target")
	if err := os.MkdirAll(filepath.Join(target, "child"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(target, []byte("x"), 0o644); err == nil {
		t.Fatal("replaced a directory")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || !entries[0].IsDir() {
		t.Fatalf("left behind: %v, %v", entries, err)
	}
}

func TestWriteIntoMissingDirectory(t *testing.T) {
	if err := Write(filepath.Join(t.TempDir(), "no", "file"), nil, 0o644); err == nil {
		t.Fatal("no error")
	}
}

func TestIsTemp(t *testing.T) {
	if !IsTemp(TempPrefix+"123") || IsTemp("record.json") {
		t.Fatal("IsTemp is wrong")
	}
}
