// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/format/xfs"
	"wherry.example/wherry/internal/linux/block"
	"wherry.example/wherry/internal/linux/loop"
	"wherry.example/wherry/internal/linux/mount"
)

// Maker makes the state of another machine, on a disk that is being installed:
// nothing of it is this machine's.
type Maker struct{ Load func(modules ...string) error }

// Partition is the state's entry in a partition table.
func (Maker) Partition(first, last uint64) gpt.Partition {
	return gpt.Partition{Type: TypeGUID, ID: gpt.RandomGUID(random()), First: first, Last: last, Name: Label}
}

// MinBytes is the smallest range that Make takes.
func (Maker) MinBytes() int64 { return minBytes }

// Make makes a state file system in a range of a disk, and has files put into
// it. The table need not name the range yet. It is on the disk when Make returns;
// it grows to its partition when it is first used.
func (m Maker) Make(disk *block.Device, start, length int64, fill func(dir string) error) error {
	if err := m.Load("xfs", "loop"); err != nil {
		return err
	}
	// What was here before must neither be a claim nor look like state.
	if err := disk.ZeroOut(start+claimOffset(length), reservedBytes); err != nil {
		return err
	}
	if err := writeFileSystem(disk, start, length); err != nil {
		return err
	}
	part, err := loop.AttachPart(disk.File, start, length, xfs.BlockBytes)
	if err != nil {
		return err
	}
	dir, err := mount.Hidden(part.Name(), "xfs", false)
	if err = errors.Join(err, part.Close()); err != nil {
		return fmt.Errorf("the new state: %w", err)
	}
	err = errors.Join(fill(dir.Name()), syncFileSystem(dir.Name()), dir.Close())
	return errors.Join(err, disk.Sync())
}

func syncFileSystem(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}
