// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"wherry.example/wherry/internal/disklayout"
	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/format/xfs"
)

// target is a device as formatting needs it.
type target interface {
	io.WriterAt
	Sync() error
	ZeroOut(offset, n int64) error
}

// formatDisk makes a partition table with one partition for the state and a
// file system in it. A power cut at any time leaves an empty disk, a claimed
// one, or a finished one.
func formatDisk(d target, blockBytes int, size int64) error {
	t, err := newTable(blockBytes, size)
	if err != nil {
		return err
	}
	writes, err := t.Writes()
	if err != nil {
		return err
	}
	if err := writeSynced(d, diskClaim(t), 0); err != nil {
		return fmt.Errorf("claim the disk: %w", err)
	}
	// The last of the writes, the protective MBR, is what takes the claim back.
	last := len(writes) - 1
	for _, w := range writes[:last] {
		if err := writeSynced(d, w.Data, w.Offset); err != nil {
			return fmt.Errorf("write the partition table: %w", err)
		}
	}
	p := t.Partitions[0]
	start, length := int64(p.First)*int64(blockBytes), int64(p.Last-p.First+1)*int64(blockBytes)
	if err := writeFileSystem(d, start, length); err != nil {
		return err
	}
	if err := writeSynced(d, writes[last].Data, writes[last].Offset); err != nil {
		return fmt.Errorf("finish the partition table: %w", err)
	}
	return nil
}

// addState adds a partition for the state to the table of a disk that holds
// the boot partition alone. The partition is claimed before it is in the table,
// so that a power cut leaves the disk as it was, or with a claimed partition. A
// state file system that lies just there is that of a machine whose boot
// partition was written anew: it is kept. The disk gets an identity of its own
// too, since all copies of an image have the same.
func addState(d interface {
	target
	io.ReaderAt
}, blockBytes int, size int64) error {
	t, err := gpt.Read(d, blockBytes, uint64(size)/uint64(blockBytes))
	if err != nil {
		return err
	}
	first, last, ok := disklayout.Room(t)
	start, length := int64(first)*int64(blockBytes), (int64(last+1)-int64(first))*int64(blockBytes)
	if !ok || length < minBytes {
		return errors.New("the disk has no room behind the boot partition any more")
	}
	t.ID = gpt.RandomGUID(random())
	t.Partitions = append(t.Partitions, gpt.Partition{Type: TypeGUID, ID: gpt.RandomGUID(random()), First: first, Last: last, Name: Label})
	writes, err := t.Writes()
	if err != nil {
		return err
	}
	there := place{Bytes: length}
	inspect(io.NewSectionReader(d, start, length), &there)
	if there.Problem != "" || !holdsState(there) && there.Super.Label == Label {
		return fmt.Errorf("the room behind the boot partition holds state that is damaged or cannot be read; nothing on it was changed %s", there.Problem)
	}
	if !holdsState(there) {
		if err := writeSynced(d, partitionClaim(), start+claimOffset(length)); err != nil {
			return fmt.Errorf("claim the new partition: %w", err)
		}
	}
	for _, w := range writes {
		if err := writeSynced(d, w.Data, w.Offset); err != nil {
			return fmt.Errorf("write the partition table: %w", err)
		}
	}
	return nil
}

// formatPartition makes a file system in a partition that is meant for the state.
func formatPartition(d target, size int64) error {
	if err := writeSynced(d, partitionClaim(), claimOffset(size)); err != nil {
		return fmt.Errorf("claim the partition: %w", err)
	}
	if err := writeFileSystem(d, 0, size); err != nil {
		return err
	}
	if err := writeSynced(d, make([]byte, reservedBytes), claimOffset(size)); err != nil {
		return fmt.Errorf("take back the claim: %w", err)
	}
	return nil
}

func newTable(blockBytes int, size int64) (*gpt.Table, error) {
	if blockBytes != 512 && blockBytes != 4096 {
		return nil, fmt.Errorf("format the disk: logical blocks of %d bytes are not supported", blockBytes)
	}
	t := &gpt.Table{ID: gpt.RandomGUID(random()), BlockBytes: blockBytes, Blocks: uint64(size) / uint64(blockBytes)}
	first, last := t.Span()
	t.Partitions = []gpt.Partition{{Type: TypeGUID, ID: gpt.RandomGUID(random()), First: first, Last: last, Name: Label}}
	return t, nil
}

// writeFileSystem writes an empty file system in the order that package xfs asks for.
func writeFileSystem(d target, start, length int64) error {
	image, err := xfs.Build(random(), Label, length-reservedBytes)
	if err != nil {
		return err
	}
	if err := d.ZeroOut(start, xfs.BlockBytes); err != nil {
		return err
	}
	if err := d.ZeroOut(start+image.LogOffset, image.LogBytes); err != nil {
		return err
	}
	for _, b := range image.Blocks {
		if _, err := d.WriteAt(b.Data, start+b.Offset); err != nil {
			return fmt.Errorf("write the file system: %w", err)
		}
	}
	if err := d.Sync(); err != nil {
		return fmt.Errorf("write the file system: %w", err)
	}
	if err := writeSynced(d, image.Super[:], start); err != nil {
		return fmt.Errorf("write the superblock: %w", err)
	}
	return nil
}

func writeSynced(d target, data []byte, offset int64) error {
	_, err := d.WriteAt(data, offset)
	return errors.Join(err, d.Sync())
}

func random() [16]byte {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return b
}
