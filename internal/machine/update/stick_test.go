// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/linux/block"
	"wherry.example/wherry/release"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestBundlesIn(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.wherry", "A.WHERRY", ".hidden.wherry", "other.txt", "folder.wherry/x.wherry"} {
		write(t, filepath.Join(dir, name), "x")
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link.wherry")); err != nil {
		t.Fatal(err)
	}
	got, err := bundlesIn(dir)
	if diff := cmp.Diff([]string{filepath.Join(dir, "A.WHERRY"), filepath.Join(dir, "b.wherry")}, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	for n := range 9 {
		write(t, filepath.Join(dir, fmt.Sprint(n, ".wherry")), "x")
	}
	if got, err = bundlesIn(dir); len(got) != maxStickFiles || err == nil || !strings.Contains(err.Error(), "11 bundles: the first 8") {
		t.Errorf("%d bundles, %v", len(got), err)
	}
	for n := range maxStickNames {
		write(t, filepath.Join(dir, fmt.Sprint(n)), "")
	}
	if got, err = bundlesIn(dir); len(got) > maxStickFiles || err == nil || !strings.Contains(err.Error(), "4096 files or more") {
		t.Errorf("%d bundles, %v", len(got), err)
	}
	if got, err = bundlesIn(t.TempDir()); len(got) != 0 || err != nil {
		t.Errorf("an empty folder: %v, %v", got, err)
	}
}

func TestRemovable(t *testing.T) {
	parts := func(names ...string) (out []block.Partition) {
		for _, n := range names {
			out = append(out, block.Partition{Path: n})
		}
		return out
	}
	got := removable([]block.Disk{
		{Path: "sda", Partitions: parts("sda1")},
		{Path: "sdb", Removable: true}, {Path: "sdc", Removable: true, Partitions: parts("sdc1", "sdc2")},
		{Path: "sdd", Removable: true, Partitions: parts(strings.Split(strings.Repeat("p ", 99), " ")...)},
	})
	if len(got) != maxStickParts || !cmp.Equal(got[:3], []string{"sdb", "sdc1", "sdc2"}) {
		t.Errorf("%q", got)
	}
}

// A stick is there for a second before its disk is.
func TestComing(t *testing.T) {
	sys := t.TempDir()
	usb := filepath.Join(sys, "bus", "usb", "devices")
	Sticks{Sys: sys}.await(t.Context()) // without USB nothing is waited for
	write(t, filepath.Join(usb, "1-1:1.0", "bInterfaceClass"), "03\n")
	if coming(usb) {
		t.Error("a keyboard is taken for a disk")
	}
	write(t, filepath.Join(usb, "1-2:1.0", "bInterfaceClass"), "08\n")
	if !coming(usb) {
		t.Error("a stick without a disk is not waited for")
	}
	write(t, filepath.Join(usb, "1-2:1.0", "host6", "target6:0:0", "6:0:0:0", "block", "sdb", "size"), "0\n")
	if coming(usb) {
		t.Error("a stick with its disk is waited for")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	Sticks{Sys: sys}.await(ctx) // ends
}

// What is on a stick is taken when it is a release for this machine, if it
// updates by itself; else people at the screen hear why not.
func TestFromSticks(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	data := string(repo.bundle("1.1.0"))
	repo.publish("1.2.0")
	dir := t.TempDir()
	write(t, filepath.Join(dir, "1.1.0.wherry"), data)
	write(t, filepath.Join(dir, "torn.wherry"), data[:len(data)/2])
	write(t, filepath.Join(dir, "text.wherry"), "hello")
	write(t, filepath.Join(dir, "large.wherry"), "")
	if err := os.Truncate(filepath.Join(dir, "large.wherry"), 10<<30); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mode, file, says string
		err              error
	}{
		{config.UpdatesAutomatic, "text.wherry", "text.wherry on the USB stick: read bundle: .*is this a .wherry file", nil},
		{config.UpdatesAutomatic, "torn.wherry", "torn.wherry on the USB stick: read bundle: .* is cut off", nil},
		{config.UpdatesAutomatic, "large.wherry", "a bundle of 10737418240 bytes: the limit is 2147483648", nil},
		{config.UpdatesManual, "1.1.0.wherry", "", nil},
		{config.UpdatesAutomatic, "1.1.0.wherry", "", errors.New("it has a thousand files")},
	} {
		w := repo.world("1.0.0")
		w.config = config.Updates{Mode: c.mode}
		w.start()
		if err := w.life(func(u *Updater) error {
			u.o.Sticks = func(_ context.Context, use func(string), wrong func(error)) error {
				if c.err != nil {
					wrong(c.err)
				}
				use(filepath.Join(dir, c.file))
				return nil
			}
			u.fromSticks(t.Context())
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(w.console, "\n"); !regexp.MustCompile(c.says).MatchString(got) {
			t.Errorf("%s: the console says %q, want %q", c.file, got, c.says)
		}
		if taken := c.err != nil; w.rebooted != taken {
			t.Errorf("%+v: taken: %v; %q", c, w.rebooted, w.console)
		} else if taken {
			if w.untilQuiet(); w.running != "1.1.0" || w.record().last().How != Stick || w.record().State != release.StateCommitted {
				t.Errorf("%s runs, %+v", w.running, w.record())
			}
		}
	}
}
