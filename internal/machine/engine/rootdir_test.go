// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRootDir has a root that tries everything to lead out of itself.
func TestRootDir(t *testing.T) {
	outside := t.TempDir()
	dir := filepath.Join(outside, "root")
	for _, d := range []string{dir, dir + "/etc", dir + "/real"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(outside+"/secret", []byte("secret"), 0o644)
	os.WriteFile(dir+"/etc/passwd", []byte("inside"), 0o644)
	os.WriteFile(dir+"/real/large", make([]byte, 100), 0o644)
	for link, to := range map[string]string{"abs": "/etc", "up": "../../../../etc", "out": outside + "/secret", "loop": "loop", "magic": "/proc/self/root"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(dir+"/fifo", 0o644); err != nil {
		t.Fatal(err)
	}
	root, err := openRootDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, want := range map[string]string{"/etc/passwd": "inside", "/abs/passwd": "inside", "/up/passwd": "inside", "/../../../etc/passwd": "inside"} {
		if b, err := root.readFile(name, 10); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	for name, want := range map[string]error{"/out": fs.ErrNotExist, "/loop": unix.ELOOP, "/magic/etc/passwd": fs.ErrNotExist, "/fifo": errNotRegular, "/etc": errNotRegular} {
		if b, err := root.readFile(name, 10); !errors.Is(err, want) {
			t.Errorf("%s: %q, %v, want %v", name, b, err, want)
		}
	}
	if b, err := root.readFile("/real/large", 99); err == nil {
		t.Errorf("a file over the bound: %d bytes", len(b))
	}
	if err := root.mkdirAll("/abs/a/b", 0o755, os.Getuid(), os.Getgid()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir + "/etc/a/b"); err != nil {
		t.Errorf("a directory behind an absolute symlink: %v", err)
	}
	if err := root.mkdirAll("/etc/passwd/x", 0o755, 0, 0); err == nil {
		t.Error("a directory was made below a file")
	}
}
