// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package block

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Real tools make what Probe must name; an empty name means that only the fact
// that something is there counts.
func TestProbeNamesWhatToolsMake(t *testing.T) {
	for want, command := range map[string][]string{
		"xfs":      {"mkfs.xfs", "-q"},
		"ext4":     {"mkfs.ext4", "-q", "-F"},
		"swap":     {"mkswap", "-q"},
		"gpt":      {"sgdisk", "-n1:0:0"},
		"squashfs": nil,
	} {
		t.Run(want, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk")
			if want == "squashfs" {
				run(t, "mksquashfs", t.TempDir(), path, "-quiet")
				truncate(t, path, 8<<20)
			} else {
				truncate(t, path, 400<<20)
				run(t, command[0], append(command[1:], path)...)
			}
			if got := probeFile(t, path); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

func TestProbe(t *testing.T) {
	const size = 16 << 20
	at := func(offset int, data string) []byte {
		disk := make([]byte, size)
		copy(disk[offset:], data)
		return disk
	}
	for name, c := range map[string]struct {
		disk []byte
		want string
	}{
		"nothing":                  {at(0, ""), "empty"},
		"one byte at the begin":    {at(0, "\x01"), "data"},
		"one byte in the first MB": {at(edgeBytes-1, "\x01"), "data"},
		"one byte in the last MB":  {at(size-edgeBytes, "\x01"), "data"},
		"the very last byte":       {at(size-1, "\x01"), "data"},
		"a whole disk of noise":    {bytes.Repeat([]byte{0x5a}, size), "data"},
		"noise but for the edges":  {append(append(make([]byte, edgeBytes), bytes.Repeat([]byte{1}, size-2*edgeBytes)...), make([]byte, edgeBytes)...), "data"},
		"backup table only":        {at(size-512, "EFI PART"), "gpt"},
		"luks":                     {at(0, "LUKS\xba\xbe"), "luks"},
		"lvm":                      {at(512, "LABELONE"), "lvm"},
		"zfs":                      {at(128<<10+1024, "\x0c\xb1\xba\x00\x00\x00\x00\x00"), "zfs"},
		"iso9660":                  {at(0x8001, "CD001"), "iso9660"},
		"vfat":                     {at(82, "FAT32   "), "vfat"},
		"mbr":                      {at(510, "\x55\xaa"), "mbr"},
		"btrfs":                    {at(0x10040, "_BHRfS_M"), "btrfs"},
		"tiny and empty":           {make([]byte, 512), "empty"},
		"tiny":                     {[]byte{1, 2, 3}, "data"},
		"no bytes":                 {nil, "empty"},
	} {
		got, err := Probe(bytes.NewReader(c.disk), int64(len(c.disk)))
		if err != nil || got.Name != c.want {
			t.Errorf("%s: %q, %v; want %q", name, got.Name, err, c.want)
		}
	}
}

// A disk that cannot be read must not count as empty.
func TestProbeOfBrokenDisk(t *testing.T) {
	for _, bad := range []int64{0, 5 << 20, 16<<20 - 4096} {
		c, err := Probe(brokenDisk{bad}, 16<<20)
		if err == nil || c.Empty() {
			t.Errorf("broken at %d: %+v", bad, c.Name)
		}
	}
}

// brokenDisk reads as zeros but for a MiB that fails.
type brokenDisk struct{ bad int64 }

func (d brokenDisk) ReadAt(p []byte, offset int64) (int, error) {
	if offset < d.bad+1<<20 && offset+int64(len(p)) > d.bad {
		return 0, errors.New("input/output error")
	}
	clear(p)
	return len(p), nil
}

func FuzzProbe(f *testing.F) {
	f.Add([]byte("XFSB"))
	f.Fuzz(func(t *testing.T, disk []byte) {
		c, err := Probe(bytes.NewReader(disk), int64(len(disk)))
		if err != nil {
			t.Fatal(err)
		}
		if c.Empty() && len(bytes.Trim(disk, "\x00")) > 0 && len(disk) <= 2*edgeBytes {
			t.Fatal("a disk with data counts as empty")
		}
	})
}

func TestList(t *testing.T) {
	sys := t.TempDir()
	files := map[string]string{
		"vdb/size": "100\n", "vdaa/size": "8\n", "loop0/size": "10\n", "sda/size": "0\n", "dm-0/size": "10\n",
		"mmcblk0/size": "50\n", "md127/size": "9\n", "sr0/size": "9\n",
		"vda/size": "2097152\n", "vda/ro": "1\n", "vda/removable": "0\n", "vda/queue/logical_block_size": "4096\n",
		"vda/vda2/partition": "2\n", "vda/vda2/start": "4096\n", "vda/vda2/size": "8\n",
		"vda/vda1/partition": "1\n", "vda/vda1/start": "2048\n", "vda/vda1/size": "2048\n",
	}
	for name, text := range files {
		path := filepath.Join(sys, "block", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Lister{Sys: sys}.List()
	if err != nil {
		t.Fatal(err)
	}
	want := []Disk{
		{Name: "vda", Path: "/dev/vda", Bytes: 1 << 30, LogicalBytes: 4096, ReadOnly: true, Partitions: []Partition{
			{Name: "vda1", Path: "/dev/vda1", Number: 1, Start: 1 << 20, Bytes: 1 << 20},
			{Name: "vda2", Path: "/dev/vda2", Number: 2, Start: 2 << 20, Bytes: 4096},
		}},
		{Name: "vdb", Path: "/dev/vdb", Bytes: 51200, LogicalBytes: 512},
		{Name: "vdaa", Path: "/dev/vdaa", Bytes: 4096, LogicalBytes: 512},
		{Name: "mmcblk0", Path: "/dev/mmcblk0", Bytes: 25600, LogicalBytes: 512},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPending(t *testing.T) {
	sys := t.TempDir()
	link := func(target, name string) {
		t.Helper()
		path := filepath.Join(sys, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(sys, target), path); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(sys, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := Lister{Sys: sys}
	check := func(what string, want bool) {
		t.Helper()
		if got := l.Pending(); got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	check("nothing", false)
	write("devices/pci/1f.2/class", "0x010601\n")
	link("devices/pci/1f.2", "bus/pci/devices/1f.2")
	check("a controller without a driver", false)
	write("devices/pci/03.0/class", "0x010000\n")
	write("devices/pci/03.0/driver/x", "")
	write("devices/pci/03.0/virtio1/device", "0x0002\n")
	link("devices/pci/03.0", "bus/pci/devices/03.0")
	link("devices/pci/03.0/virtio1", "bus/virtio/devices/virtio1")
	check("a virtio disk whose module is not loaded", false)
	write("devices/pci/03.0/virtio1/driver/x", "")
	check("a virtio disk that does not show yet", true)
	write("devices/pci/03.0/virtio1/block/vda/size", "1")
	link("devices/pci/03.0/virtio1/block/vda", "block/vda")
	check("it shows", false)
	write("devices/pci/1f.2/driver/x", "")
	check("another controller is at work", true)
}

func truncate(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

func probeFile(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	c, err := Probe(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return c.Name
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}
