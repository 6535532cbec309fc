// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package bootimage

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"wherry.example/wherry/internal/host/rootfs"
)

func sample(t *testing.T) *rootfs.Tree {
	t.Helper()
	tree := &rootfs.Tree{}
	if err := errors.Join(
		tree.File("bin/program", 0o755, bytes.Repeat([]byte("program "), 300_000)),
		tree.File("lib/z", 0o644, []byte("z")),
		tree.File("lib/a", 0o600, []byte("a")),
		tree.File("sbin/modprobe", 0o755, nil),
		tree.Symlink("etc/resolv.conf", "/run/wherry/resolv.conf"),
		tree.Dir("tmp", 0o700),
	); err != nil {
		t.Fatal(err)
	}
	tree.Place("lib/z")
	return tree
}

func quiet(string) {}

func needs(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed", program)
	}
}

// TestUnsquashfsAgrees: an independent reader sees the tree as it was put in.
func TestUnsquashfsAgrees(t *testing.T) {
	needs(t, "unsquashfs")
	file, err := Squashfs(t.Context(), sample(t), t.TempDir(), quiet)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("unsquashfs", "-lln", "-UTC", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	want := `drwxr-xr-x 0/0 2026-11-20 00:00 squashfs-root
drwxr-xr-x 0/0 2026-11-20 00:00 squashfs-root/bin
-rwxr-xr-x 0/0 2400000 2026-11-20 00:00 squashfs-root/bin/program
drwxr-xr-x 0/0 2026-11-20 00:00 squashfs-root/etc
lrwxrwxrwx 0/0 23 2026-11-20 00:00 squashfs-root/etc/resolv.conf -> /run/wherry/resolv.conf
drwxr-xr-x 0/0 2026-11-20 00:00 squashfs-root/lib
-rw------- 0/0 1 2026-11-20 00:00 squashfs-root/lib/a
-rw-r--r-- 0/0 1 2026-11-20 00:00 squashfs-root/lib/z
drwxr-xr-x 0/0 2026-11-20 00:00 squashfs-root/sbin
-rwxr-xr-x 0/0 0 2026-11-20 00:00 squashfs-root/sbin/modprobe
drwx------ 0/0 2026-11-20 00:00 squashfs-root/tmp
`
	got := regexp.MustCompile(`  +`).ReplaceAllString(string(out), " ")
	got = regexp.MustCompile(`(?m)^(d\S+ 0/0) \d+`).ReplaceAllString(got, "$1")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	dir := filepath.Join(t.TempDir(), "out")
	if out, err := exec.Command("unsquashfs", "-q", "-d", dir, file).CombinedOutput(); err != nil {
		t.Fatalf("unsquashfs: %v: %s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "bin/program"))
	if err != nil || !bytes.Equal(b, bytes.Repeat([]byte("program "), 300_000)) {
		t.Errorf("the content came out as %d bytes, %v", len(b), err)
	}
}

// TestOrdinaryUserPacksTheSame: who builds must not show in the image. It runs
// the test above again as somebody else.
func TestOrdinaryUserPacksTheSame(t *testing.T) {
	needs(t, "unsquashfs")
	if os.Getuid() != 0 {
		t.Skip("not root: the test above is this one already")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	// Neither the folder of `go test` nor t.TempDir can be entered by others.
	dir, err := os.MkdirTemp("", "wherry-bootimage-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	copied := filepath.Join(dir, "program.test")
	if err := errors.Join(os.Chmod(dir, 0o777), os.WriteFile(copied, program, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(copied, "-test.run=^TestUnsquashfsAgrees$", "-test.v")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestUnsquashfsAgrees")) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestSquashfsTwiceTheSame(t *testing.T) {
	needs(t, "mksquashfs")
	// The environment of a packager must not get in.
	t.Setenv("SOURCE_DATE_EPOCH", "1")
	t.Setenv("TZ", "Asia/Kolkata")
	var got [2][]byte
	for i := range got {
		file, err := Squashfs(t.Context(), sample(t), t.TempDir(), quiet)
		if err != nil {
			t.Fatal(err)
		}
		if got[i], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // times in squashfs are whole seconds
	}
	if !bytes.Equal(got[0], got[1]) {
		t.Error("two packed roots of one tree differ")
	}
}

func TestSquashfsCache(t *testing.T) {
	needs(t, "mksquashfs")
	cache := t.TempDir()
	packed := 0
	count := func(string) { packed++ }
	first, err := Squashfs(t.Context(), sample(t), cache, count)
	if err != nil {
		t.Fatal(err)
	}
	other := sample(t)
	if err := other.File("new", 0o644, nil); err != nil {
		t.Fatal(err)
	}
	second, err := Squashfs(t.Context(), other, cache, count)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Squashfs(t.Context(), sample(t), cache, count)
	if err != nil {
		t.Fatal(err)
	}
	if packed != 2 || first == second || first != again {
		t.Errorf("packed %d times: %s, %s, %s", packed, first, second, again)
	}
}

func TestPruneKeepsTheNewest(t *testing.T) {
	dir := t.TempDir()
	for i, name := range []string{"old", "middle", "new"} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(int64(1_000_000+i*1000), 0)
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := prune(dir, 2); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 2 || filepath.Base(left[0]) != "middle" || filepath.Base(left[1]) != "new" {
		t.Errorf("left are %v, %v", left, err)
	}
}

func TestCancelledPackLeavesNothing(t *testing.T) {
	needs(t, "mksquashfs")
	cache := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Squashfs(ctx, sample(t), cache, func(string) { cancel() })
	if err == nil {
		t.Fatal("a cancelled pack succeeded")
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "root", "*")); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
}

// TestInitramfs: the first archive is zstd and small, the second follows at a
// multiple of four, and cpio reads both.
func TestInitramfs(t *testing.T) {
	needs(t, "cpio")
	early := &rootfs.Tree{}
	if err := errors.Join(early.File("init", 0o755, []byte("#!")), early.File("modules/index", 0o644, []byte("builtin\text4\n"))); err != nil {
		t.Fatal(err)
	}
	root := bytes.Repeat([]byte("hsqs"), 1000)
	var b bytes.Buffer
	if err := Initramfs(&b, early, root); err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b.Bytes(), []byte("070701"))
	if at < 0 || at%4 != 0 {
		t.Fatalf("the second archive begins at %d", at)
	}
	if got := listCPIO(t, b.Bytes()[at:]); got != "root.squashfs" {
		t.Errorf("the second archive holds %q", got)
	}
	d, err := zstd.NewReader(bytes.NewReader(bytes.TrimRight(b.Bytes()[:at], "\x00")))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var plain bytes.Buffer
	if _, err := d.WriteTo(&plain); err != nil {
		t.Fatal(err)
	}
	if got := listCPIO(t, plain.Bytes()); got != "init modules modules/index" {
		t.Errorf("the first archive holds %q", got)
	}
}

func listCPIO(t *testing.T, b []byte) string {
	t.Helper()
	cmd := exec.Command("cpio", "-t", "--quiet")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cpio: %v", err)
	}
	return strings.Join(strings.Fields(string(out)), " ")
}
