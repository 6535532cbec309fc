// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/disklayout"
	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/format/pe/petest"
	"wherry.example/wherry/internal/linux/block"
)

func good(name string) disk {
	return disk{Name: name, Path: "/dev/" + name, Bytes: 8 << 30, BlockBytes: 512, Content: "empty"}
}

func with(d disk, change func(*disk)) disk {
	change(&d)
	return d
}

func TestChoose(t *testing.T) {
	data := with(good("sdb"), func(d *disk) { d.Content, d.Partitions, d.Serial = "gpt", []string{"home"}, "S1" })
	small := with(good("sdc"), func(d *disk) { d.Bytes = 4 << 30 })
	large := with(good("sdd"), func(d *disk) { d.Bytes = 16 << 30 })
	stick := with(good("sda"), func(d *disk) { d.Removable = true })
	cut := with(good("sde"), func(d *disk) { d.Content = contentUnfinished; d.Serial = "S1" })
	all := []disk{stick, data, good("nvme0n1"), small, large}
	for _, c := range []struct {
		disks    []disk
		selector string
		wipe     bool
		want     string // a disk, or what the refusal says
	}{
		{all, "first", false, "nvme0n1"},
		{all, "smallest", false, "sdc"},
		{all, "largest", false, "sdd"},
		{all, "first", true, "must be named"},
		{all, "sda", false, "sda"},
		{all, "/dev/sdc", false, "sdc"},
		{all, "sdb", false, "sdb holds data (gpt with the partitions home)"},
		{all, "sdb", true, "sdb"},
		{all, "serial:S1", true, "sdb"},
		{append(all, cut), "serial:S1", true, "2 disks say that their serial number is S1"},
		{all, "serial:", false, "no disk serial:"},
		{all, "", false, "no disk is named"},
		{all, "sdz", true, "there is no disk sdz; there are: sda, sdb, nvme0n1, sdc, sdd"},
		{[]disk{cut}, "first", false, "sde"},
		{[]disk{data, stick}, "first", false, "there is no disk on which nothing would be lost"},
		{[]disk{with(data, func(d *disk) { d.Medium = true })}, "sdb", true, "the machine was started from it"},
		{[]disk{with(data, func(d *disk) { d.State = true })}, "sdb", true, "the state of this machine"},
		{[]disk{with(data, func(d *disk) { d.Busy = true })}, "sdb", true, "in use"},
		{[]disk{with(good("a"), func(d *disk) { d.ReadOnly = true })}, "a", true, "read-only"},
		{[]disk{with(good("a"), func(d *disk) { d.Bytes = minBytes - 1 })}, "a", true, "too small"},
		{[]disk{with(good("a"), func(d *disk) { d.BlockBytes = 4096 })}, "a", true, "4096"},
		{[]disk{with(good("a"), func(d *disk) { d.Problem = "broken" })}, "a", true, "cannot be read: broken"},
	} {
		d, err := choose(c.disks, c.selector, c.wipe)
		var no Refused
		if err != nil && !errors.As(err, &no) {
			t.Errorf("%q: %v is not a refusal", c.selector, err)
		}
		if err == nil && d.Name != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q, wipe %v: %q, %v; want %q", c.selector, c.wipe, d.Name, err, c.want)
		}
	}
}

// fakeState reserves a partition and leaves it as it is.
type fakeState struct{}

func (fakeState) Partition(first, last uint64) gpt.Partition {
	return gpt.Partition{Type: gpt.MustGUID("57A9C3E1-7D0B-4C8E-9F35-2B6D4E8A1C70"), ID: gpt.RandomGUID(random()), First: first, Last: last, Name: "wherry-state"}
}
func (fakeState) MinBytes() int64                                                { return 84 << 20 }
func (fakeState) Make(*block.Device, int64, int64, func(dir string) error) error { return nil }

// cutDisk is a disk in a file whose power is cut after some writes.
type cutDisk struct {
	*os.File
	left int
}

var errCut = errors.New("the power is cut")

func (c *cutDisk) use() error {
	if c.left--; c.left < 0 {
		return errCut
	}
	return nil
}

func (c *cutDisk) WriteAt(data []byte, at int64) (int, error) {
	if err := c.use(); err != nil {
		return 0, err
	}
	return c.File.WriteAt(data, at)
}

func (c *cutDisk) ZeroOut(at, n int64) error {
	if err := c.use(); err != nil {
		return err
	}
	return unix.Fallocate(int(c.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, n)
}

func (c *cutDisk) Sync() error      { return nil }
func (c *cutDisk) DropCache() error { return nil }

const testBytes = 1 << 30

func boot() disklayout.Boot {
	os := petest.Stub(".text")
	return disklayout.Boot{Version: "3.2.1", OS: append(os, bytes.Repeat([]byte("os"), 1<<20)...), Loader: []byte("loader"), Keys: map[string][]byte{"PK.auth": []byte("key")}}
}

// installCut writes the disk until its power is cut.
func installCut(t *testing.T, path string, left int) (done bool) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := &cutDisk{f, left}
	l, err := newLayout(testBytes, boot(), gpt.RandomGUID(random()), fakeState{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	quiet := func(string, int64, int64) {}
	for _, step := range []func() error{
		func() error { return l.clear(d) }, func() error { return l.writeBoot(d, quiet) }, func() error { return l.check(d, quiet) }, func() error { return l.finish(d) },
	} {
		if err := step(); errors.Is(err, errCut) {
			return false
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return true
}

// After a cut at any write the disk is as it was, or an unfinished one that is
// taken again without wiping, or whole.
func TestPowerCuts(t *testing.T) {
	for left, done := 0, false; !done; left++ {
		if left > 6 && left < 130 { // the zeros of the boot partition are all alike
			left = 130
		}
		path := filepath.Join(t.TempDir(), "disk")
		old(t, path)
		done = installCut(t, path, left)
		check(t, path, left, done)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// old is a disk with another system's data.
func old(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, testBytes); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sgdisk", "-n1:0:0", "-c1:home", path).CombinedOutput(); err != nil {
		t.Fatalf("sgdisk: %v\n%s", err, out)
	}
}

func check(t *testing.T, path string, left int, done bool) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, len(mark))
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	unfinished := bytes.Equal(head, mark)
	table, err := gpt.Read(f, 512, testBytes/512)
	name := ""
	if err == nil {
		name = table.Partitions[0].Name
	}
	switch {
	case left == 0 && (unfinished || name != "home"):
		t.Errorf("before the first write the disk is %q, unfinished %v", name, unfinished)
	case left > 0 && !done && !unfinished:
		t.Errorf("cut at write %d: the disk does not say that it is unfinished (%q)", left, name)
	case done && (unfinished || name != disklayout.BootName || len(table.Partitions) != 2):
		t.Errorf("the finished disk is %q, unfinished %v", name, unfinished)
	}
	if done {
		judge(t, path)
	}
}

func judge(t *testing.T, path string) {
	t.Helper()
	out, err := exec.Command("sgdisk", "-v", path).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No problems found") {
		t.Errorf("sgdisk: %v\n%s", err, out)
	}
	if out, err := exec.Command("mdir", "-i", path+"@@1M", "-/", "-b").CombinedOutput(); err != nil || !strings.Contains(string(out), "wherry_3.2.1.efi") || !strings.Contains(string(out), "PK.auth") {
		t.Errorf("mdir: %v\n%s", err, out)
	}
}

// A disk that gives back other bytes than it took is found.
func TestCheckFindsDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	old(t, path)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d := &cutDisk{f, 1 << 20}
	l, err := newLayout(testBytes, boot(), gpt.RandomGUID(random()), fakeState{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	quiet := func(string, int64, int64) {}
	if err := errors.Join(l.clear(d), l.writeBoot(d, quiet), l.check(d, quiet)); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 16<<20)
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0}, int64(bytes.LastIndex(head, []byte("ososos")))); err != nil {
		t.Fatal(err)
	}
	if err := l.check(d, quiet); err == nil || !strings.Contains(err.Error(), "defective") {
		t.Errorf("a flipped byte: %v", err)
	}
}

func TestReadMedium(t *testing.T) {
	root := t.TempDir()
	file := func(name string, data []byte) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	refuse := func(says string) {
		t.Helper()
		if _, err := readMedium(root, "3.2.1", "core"); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
	refuse("boot loader")
	file("EFI/BOOT/BOOTX64.EFI", []byte("none"))
	refuse("the boot loader")
	file("EFI/BOOT/BOOTX64.EFI", petest.Stub(".text"))
	file("EFI/Linux/wherry_3.2.0.efi", petest.Stub(".text"))
	refuse("version 3.2.1, which runs, is not among")
	file("EFI/Linux/wherry_3.2.1+2-1.efi", petest.Stub(".text"))
	refuse("it is not what runs here")
	file("loader/keys/auto/PK.auth", []byte("key"))
	file("loader/loader.conf", []byte("timeout 0\nsecure-boot-enroll force\n"))
	keys, err := readKeys(filepath.Join(root, "loader/keys/auto"))
	if err != nil || string(keys["PK.auth"]) != "key" {
		t.Errorf("keys %q, %v", keys, err)
	}
}
