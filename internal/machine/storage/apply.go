// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/format/xfs"
	"wherry.example/wherry/internal/linux/block"
)

// formatPlace makes a state file system and returns the place that holds it.
func (s *Storage) formatPlace(p place) (place, error) {
	if p.Boot {
		added, err := s.addPartition(p)
		if err != nil || holdsState(added) {
			return added, err
		}
		p = added
	}
	device, err := block.OpenExclusive(p.Path)
	if err != nil {
		return place{}, err
	}
	defer device.Close()
	// The decision may be seconds old: whoever wrote to the disk since then wins.
	fresh := p
	inspect(device, &fresh)
	if fresh.Problem != "" {
		return place{}, errors.New(fresh.Problem)
	}
	if !p.Claimed && fresh.Content != "empty" {
		return place{}, fmt.Errorf("%s is not empty any more: %s", p.Name, fresh.Content)
	}
	s.observer.forget(p.Disk)
	if p.Partition != 0 {
		return p, formatPartition(device, p.Bytes)
	}
	d, err := s.disk(p.Disk)
	if err != nil {
		return place{}, err
	}
	if err := formatDisk(device, d.LogicalBytes, d.Bytes); err != nil {
		return place{}, err
	}
	if err := device.RereadPartitions(); err != nil {
		return place{}, err
	}
	return s.shown(p.Disk, holdsState)
}

// addPartition adds the state partition to a disk that holds the boot
// partition alone, and returns it: claimed, or with the state in it that was
// there before somebody wrote the disk's beginning anew.
func (s *Storage) addPartition(p place) (place, error) {
	d, err := s.disk(p.Disk)
	if err != nil {
		return place{}, err
	}
	device, err := block.OpenExclusive(d.Path)
	if err != nil {
		return place{}, err
	}
	defer device.Close()
	s.observer.forget(p.Disk)
	if err := addState(device, d.LogicalBytes, d.Bytes); err != nil {
		return place{}, err
	}
	if err := device.RereadPartitions(); err != nil {
		return place{}, err
	}
	return s.shown(p.Disk, func(p place) bool { return p.Meant && (p.Claimed || holdsState(p)) })
}

// shown finds a partition that was just made, when the kernel shows it.
func (s *Storage) shown(disk string, is func(place) bool) (place, error) {
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s.observer.forget(disk)
		places, err := s.observer.look()
		if err != nil {
			return place{}, err
		}
		for _, p := range places {
			if p.Disk == disk && p.Partition != 0 && is(p) {
				return p, nil
			}
		}
		if time.Now().After(deadline) {
			return place{}, fmt.Errorf("the kernel does not show the new partition of %s", disk)
		}
	}
}

func (s *Storage) disk(name string) (block.Disk, error) {
	disks, err := s.observer.lister.List()
	if err != nil {
		return block.Disk{}, err
	}
	for _, d := range disks {
		if d.Name == name {
			return d, nil
		}
	}
	return block.Disk{}, fmt.Errorf("disk %s is gone", name)
}

// growPartition extends a state partition that is the last one of a disk that
// became larger. The backup table goes to the disk's new end first.
func (s *Storage) growPartition(p place) (place, error) {
	d, err := s.disk(p.Disk)
	if err != nil || p.Partition == 0 || !p.Meant {
		return p, err
	}
	device, err := block.OpenExclusive(d.Path)
	if err != nil {
		return p, err
	}
	defer device.Close()
	t, err := gpt.Read(device, d.LogicalBytes, uint64(d.Bytes)/uint64(d.LogicalBytes))
	if err != nil {
		return p, err
	}
	if !stretch(t, p.Partition-1) {
		return p, nil
	}
	writes, err := t.Writes()
	if err != nil {
		return p, err
	}
	for _, w := range writes {
		if err := writeSynced(device, w.Data, w.Offset); err != nil {
			return p, err
		}
	}
	entry := t.Partitions[p.Partition-1]
	p.Bytes = int64(entry.Last-entry.First+1) * int64(d.LogicalBytes)
	return p, device.ResizePartition(block.Partition{
		Name: p.Name, Number: p.Partition, Start: int64(entry.First) * int64(d.LogicalBytes), Bytes: p.Bytes,
	})
}

// stretch extends a partition to the end of the disk; false when that is not
// possible or changes nothing.
func stretch(t *gpt.Table, index int) bool {
	if index < 0 || index >= len(t.Partitions) {
		return false
	}
	this := &t.Partitions[index]
	for i, other := range t.Partitions {
		if i != index && !other.Type.IsZero() && other.First > this.First {
			return false
		}
	}
	_, last := t.Span()
	if last <= this.Last {
		return false
	}
	this.Last = last
	return true
}

// mountState mounts the file system of a place.
func mountState(p place, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil && !errors.Is(err, unix.EROFS) {
		return err
	}
	err := unix.Mount(p.Path, dir, "xfs", unix.MS_NOATIME, "prjquota")
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EUCLEAN), errors.Is(err, unix.EIO), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("the state file system on %s is damaged (%w): it is left as it is; check it from another system with xfs_repair", p.Name, err)
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("mount the state on %s: the kernel has no XFS (its module is missing in the image)", p.Name)
	}
	return fmt.Errorf("mount the state on %s: %w", p.Name, err)
}

// growFileSystem extends a mounted file system to its place.
func growFileSystem(dir string, placeBytes int64) error {
	now, err := block.XFSBlocks(dir)
	if err != nil {
		return err
	}
	// The kernel makes no allocation group smaller than this: a smaller rest
	// stays unused.
	const smallestGroup = 64
	want := uint64(placeBytes-reservedBytes) / xfs.BlockBytes
	if now+smallestGroup > want {
		return nil
	}
	return block.GrowXFS(dir, want)
}

// mountMemory mounts a file system that lives in memory, at most half of it.
func mountMemory(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil && !errors.Is(err, unix.EROFS) {
		return err
	}
	if err := unix.Mount("state", dir, "tmpfs", unix.MS_NOATIME, "mode=0755,size=50%"); err != nil {
		return fmt.Errorf("mount memory for the state: %w", err)
	}
	return nil
}
