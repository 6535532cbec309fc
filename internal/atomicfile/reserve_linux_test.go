// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package atomicfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newDisk is a file system of its own, as small as they come.
func newDisk(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount")
	}
	image, dir := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	for _, command := range []string{
		"truncate -s 320M " + image, "mkfs.xfs -q " + image, "mount -o loop " + image + " " + dir,
	} {
		if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
			if strings.HasPrefix(command, "mount") {
				t.Skipf("no loop devices or XFS here: %s", out)
			}
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// fill writes until nothing fits, not even a byte, and goes on until stop is called.
func fill(t *testing.T, dir string) (stop func()) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "hog"))
	if err != nil {
		t.Fatal(err)
	}
	write := func() {
		for size := 1 << 20; size > 0; {
			if _, err := f.Write(make([]byte, size)); err != nil {
				size /= 2
			}
		}
	}
	write()
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-end:
				return
			default:
				write()
			}
		}
	}()
	return func() { close(end); <-done; f.Close() }
}

func record(i, size int) []byte {
	return append(fmt.Appendf(nil, "%d ", i), bytes.Repeat([]byte{'x'}, size)...)
}

// TestReserve changes records, small and large ones, many times, while another
// writer takes every block that is free.
func TestReserve(t *testing.T) {
	dir := newDisk(t)
	if err := Reserve(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "records"), 0o700); err != nil {
		t.Fatal(err)
	}
	path := func(i int) string { return filepath.Join(dir, "records", fmt.Sprint(i)) }
	size := func(i int) int { return []int{100, 5000, 30000}[i%3] }
	for i := range 30 {
		if err := Write(path(i), record(i, size(i)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stop := fill(t, dir)
	defer func() { stop() }()
	if err := os.WriteFile(filepath.Join(dir, "proof"), make([]byte, 4096), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	for round := range 20 {
		for i := range 30 {
			if err := Write(path(i), record(round, size(i)), 0o640); err != nil {
				t.Fatalf("round %d, record %d: %v", round, i, err)
			}
		}
	}
	if err := Write(filepath.Join(dir, "new"), record(0, 100), 0o600); err != nil {
		t.Errorf("a new record: %v", err)
	}
	for i := range 30 {
		got, err := os.ReadFile(path(i))
		if err != nil || !bytes.Equal(got, record(19, size(i))) {
			t.Errorf("record %d: %d bytes, %v", i, len(got), err)
		}
		if info, err := os.Stat(path(i)); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("record %d: %v, %v", i, info.Mode(), err)
		}
	}
	if err := Write(path(0), make([]byte, 2*largeSpareBytes), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a record larger than all that is set aside: %v", err)
	}
	stop()
	stop = func() {}
	if err := os.Remove(filepath.Join(dir, "hog")); err != nil {
		t.Fatal(err)
	}
	whole(t, dir, path(1))
}

// whole waits until a write with room has brought the reserve back.
func whole(t *testing.T, dir, record string) {
	t.Helper()
	var missing string
	for range 100 {
		if err := Write(record, []byte("room"), 0o600); err != nil {
			t.Fatal(err)
		}
		missing = ""
		for i := range spares {
			info, err := os.Stat(filepath.Join(dir, reserveName, fmt.Sprint(i)))
			if err != nil || info.Size() < spareBytes {
				missing += fmt.Sprint(i, " ")
			}
		}
		if missing == "" {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("spares %s were not renewed", missing)
}

// TestWithoutReserve gets the plain error, and nothing is touched.
func TestWithoutReserve(t *testing.T) {
	dir := newDisk(t)
	path := filepath.Join(dir, "record")
	if err := Write(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	defer fill(t, dir)()
	if err := Write(path, record(0, 5000), 0o600); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "set aside") {
		t.Errorf("%v", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "old" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestAllocate writes into a sparse file on a full disk.
func TestAllocate(t *testing.T) {
	dir := newDisk(t)
	for name, want := range map[string]error{"sparse": unix.ENOSPC, "allocated": nil} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 1<<20); err != nil {
			t.Fatal(err)
		}
		if want == nil {
			if err := Allocate(path, 1<<20); err != nil {
				t.Fatal(err)
			}
		}
	}
	defer fill(t, dir)()
	for name, want := range map[string]error{"sparse": unix.ENOSPC, "allocated": nil} {
		if err := Allocate(filepath.Join(dir, name), 1<<20); !errors.Is(err, want) {
			t.Errorf("%s again: %v, want %v", name, err, want)
		}
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt(make([]byte, 4096), 1<<19)
		if err = errors.Join(err, f.Sync()); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		old := make([]byte, 3)
		if _, err := f.ReadAt(old, 0); err != nil || string(old) != "old" {
			t.Errorf("%s: %q, %v", name, old, err)
		}
		f.Close()
	}
}
