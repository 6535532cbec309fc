// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package block knows the machine's disks: which there are, how large they are,
// what is on them. It reads /sys and, for their content, the disks; it writes
// only through the calls that say so. Whatever is on a disk is hostile: only
// fixed places of bounded size are looked at.
package block

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Disk is a whole disk.
type Disk struct {
	Name         string // vda
	Path         string // /dev/vda
	Bytes        int64
	LogicalBytes int // of a logical block
	ReadOnly     bool
	Removable    bool
	Partitions   []Partition
}

// Partition is a partition that the kernel sees.
type Partition struct {
	Name   string // vda1
	Path   string
	Number int
	Start  int64 // in bytes
	Bytes  int64
}

// sectorBytes is the unit in which /sys counts, whatever the disk's own.
const sectorBytes = 512

// virtual names disks that are none: made by the kernel of other disks, files
// or memory.
var virtual = []string{"loop", "ram", "zram", "dm-", "md", "nbd", "sr", "fd", "mtdblock"}

// maxDisks bounds a list.
const maxDisks = 1024

// Lister lists disks. The zero value looks at this machine.
type Lister struct {
	Sys string // instead of /sys
	Dev string // instead of /dev
}

func (l Lister) sys(parts ...string) string {
	root := l.Sys
	if root == "" {
		root = "/sys"
	}
	return filepath.Join(append([]string{root}, parts...)...)
}

func (l Lister) dev(name string) string {
	root := l.Dev
	if root == "" {
		root = "/dev"
	}
	// In /sys a slash of a device's name is an exclamation mark.
	return filepath.Join(root, strings.ReplaceAll(name, "!", "/"))
}

// List returns the disks with a medium, ordered by name: vda before vdb before vdaa.
func (l Lister) List() ([]Disk, error) {
	entries, err := os.ReadDir(l.sys("block"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	var disks []Disk
	for _, e := range entries {
		if isVirtual(e.Name()) || len(disks) == maxDisks {
			continue
		}
		if d, err := l.disk(e.Name()); err == nil && d.Bytes > 0 {
			disks = append(disks, d)
		}
	}
	slices.SortFunc(disks, func(a, b Disk) int { return compareNames(a.Name, b.Name) })
	return disks, nil
}

// isVirtual matches a known prefix that a number follows (or, for "dm-", anything).
func isVirtual(name string) bool {
	return slices.ContainsFunc(virtual, func(prefix string) bool {
		rest, ok := strings.CutPrefix(name, prefix)
		return ok && rest != "" && rest[0] >= '0' && rest[0] <= '9'
	})
}

func compareNames(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

// disk reads one disk; one that vanishes meanwhile is an error.
func (l Lister) disk(name string) (Disk, error) {
	sectors, err := l.number("block", name, "size")
	if err != nil {
		return Disk{}, err
	}
	d := Disk{Name: name, Path: l.dev(name), Bytes: sectors * sectorBytes, LogicalBytes: sectorBytes}
	if n, err := l.number("block", name, "queue", "logical_block_size"); err == nil {
		d.LogicalBytes = int(n)
	}
	if n, err := l.number("block", name, "ro"); err == nil {
		d.ReadOnly = n != 0
	}
	if n, err := l.number("block", name, "removable"); err == nil {
		d.Removable = n != 0
	}
	d.Partitions, err = l.partitions(name)
	return d, err
}

func (l Lister) partitions(disk string) ([]Partition, error) {
	entries, err := os.ReadDir(l.sys("block", disk))
	if err != nil {
		return nil, err
	}
	var out []Partition
	for _, e := range entries {
		number, err := l.number("block", disk, e.Name(), "partition")
		if err != nil {
			continue // something else
		}
		start, err1 := l.number("block", disk, e.Name(), "start")
		size, err2 := l.number("block", disk, e.Name(), "size")
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		out = append(out, Partition{
			Name: e.Name(), Path: l.dev(e.Name()), Number: int(number), Start: start * sectorBytes, Bytes: size * sectorBytes,
		})
	}
	slices.SortFunc(out, func(a, b Partition) int { return a.Number - b.Number })
	return out, nil
}

func (l Lister) number(parts ...string) (int64, error) {
	data, err := os.ReadFile(l.sys(parts...))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
}

// Pending tells whether a controller for disks, with its driver at work, has
// not shown a disk yet: then it is worth waiting a moment for one.
func (l Lister) Pending() bool {
	shown := l.diskDevices()
	for _, dir := range l.controllers() {
		if !slices.ContainsFunc(shown, func(disk string) bool { return strings.HasPrefix(disk, dir+"/") }) {
			return true
		}
	}
	return false
}

// diskDevices returns the place of every disk in the tree of devices.
func (l Lister) diskDevices() []string {
	links, _ := filepath.Glob(l.sys("block", "*"))
	var out []string
	for _, link := range links {
		if dir, err := filepath.EvalSymlinks(link); err == nil && !isVirtual(filepath.Base(link)) {
			out = append(out, dir)
		}
	}
	return out
}

// Virtio's numbers of device kinds.
const (
	virtioBlock = "0x0002"
	virtioSCSI  = "0x0008"
)

// controllers returns the places of those that have a driver.
func (l Lister) controllers() []string {
	var out []string
	add := func(pattern, file string, match func(string) bool) {
		dirs, _ := filepath.Glob(pattern)
		for _, dir := range dirs {
			text, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil || !match(strings.TrimSpace(string(text))) {
				continue
			}
			if _, err := os.Stat(filepath.Join(dir, "driver")); err != nil {
				continue
			}
			if real, err := filepath.EvalSymlinks(dir); err == nil {
				out = append(out, real)
			}
		}
	}
	// A virtio controller is a PCI device of that class as well, with the
	// driver virtio-pci: the virtio device below it is what counts.
	add(l.sys("bus", "pci", "devices", "*"), "class", func(class string) bool { return strings.HasPrefix(class, "0x01") })
	out = slices.DeleteFunc(out, func(dir string) bool {
		below, _ := filepath.Glob(filepath.Join(dir, "virtio*"))
		return len(below) > 0
	})
	add(l.sys("bus", "virtio", "devices", "*"), "device", func(id string) bool { return id == virtioBlock || id == virtioSCSI })
	return out
}
