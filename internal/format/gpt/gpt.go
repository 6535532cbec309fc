// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package gpt reads and writes GUID partition tables.
//
// A Table is a value; Writes turns one into the writes that put it on a disk,
// in an order in which a power cut leaves at least one whole copy: the backup
// at the end of the disk, the primary one, the protective MBR. Read believes
// the primary copy when its checksums are right, else the backup. Nothing here
// does I/O but the reads of Read.
package gpt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"unicode/utf16"
)

// Table is a partition table of a disk.
type Table struct {
	ID         GUID
	BlockBytes int    // logical block size of the disk
	Blocks     uint64 // of the disk
	// Partitions by number: the first is number 1. A zero Type is a gap.
	Partitions []Partition
}

// Partition is one entry. First and Last are block numbers, Last included.
type Partition struct {
	Type, ID    GUID
	First, Last uint64
	Attributes  uint64
	Name        string // at most 36 UTF-16 units
}

const (
	entryCount = 128
	entryBytes = 128
	arrayBytes = entryCount * entryBytes
	nameUnits  = 36

	headerBytes = 92
	// Alignment of partitions in bytes, as all tools use today.
	Alignment = 1 << 20

	// Bounds on what Read accepts.
	maxEntries    = 1024
	maxEntryBytes = 4096
)

var (
	little    = binary.LittleEndian
	signature = []byte("EFI PART")
)

// ErrNone says that there is no valid table on the disk.
var ErrNone = errors.New("no GUID partition table")

// arrayBlocks is how many blocks the array of entries takes.
func (t *Table) arrayBlocks() uint64 { return uint64(arrayBytes / t.BlockBytes) }

// Usable returns the first and the last block that partitions may have.
func (t *Table) Usable() (first, last uint64) {
	return 2 + t.arrayBlocks(), t.Blocks - 2 - t.arrayBlocks()
}

// Span returns the largest aligned range of usable blocks.
func (t *Table) Span() (first, last uint64) {
	first, last = t.Usable()
	step := uint64(Alignment / t.BlockBytes)
	return (first + step - 1) / step * step, (last+1)/step*step - 1
}

// Write is bytes to be written at an offset of the disk.
type Write struct {
	Offset int64
	Data   []byte
}

// Writes are what puts the table on the disk: the backup copy, the primary
// copy, the protective MBR. Each is to be durable before the next is begun.
func (t *Table) Writes() ([]Write, error) {
	if err := t.validate(); err != nil {
		return nil, err
	}
	array := t.array()
	last, n := t.Blocks-1, t.arrayBlocks()
	backup := slices.Concat(array, t.header(array, last, 1, last-n))
	primary := slices.Concat(t.header(array, 1, last, 2), array)
	return []Write{
		{t.offset(last - n), backup},
		{t.offset(1), primary},
		{0, t.ProtectiveMBR()},
	}, nil
}

func (t *Table) offset(block uint64) int64 { return int64(block) * int64(t.BlockBytes) }

func (t *Table) validate() error {
	if t.BlockBytes != 512 && t.BlockBytes != 4096 {
		return fmt.Errorf("partition table: block size of %d bytes", t.BlockBytes)
	}
	if t.Blocks < 4*(t.arrayBlocks()+2) {
		return fmt.Errorf("partition table: a disk of %d blocks is too small", t.Blocks)
	}
	if len(t.Partitions) > entryCount {
		return fmt.Errorf("partition table: %d partitions, at most %d", len(t.Partitions), entryCount)
	}
	first, last := t.Usable()
	for i, p := range t.Partitions {
		if p.Type.IsZero() {
			continue
		}
		if p.First < first || p.Last > last || p.First > p.Last {
			return fmt.Errorf("partition %d: blocks %d to %d are outside of %d to %d", i+1, p.First, p.Last, first, last)
		}
		if len(utf16.Encode([]rune(p.Name))) > nameUnits {
			return fmt.Errorf("partition %d: name %q is too long", i+1, p.Name)
		}
		for j, q := range t.Partitions[:i] {
			if !q.Type.IsZero() && p.First <= q.Last && q.First <= p.Last {
				return fmt.Errorf("partitions %d and %d overlap", j+1, i+1)
			}
		}
	}
	return nil
}

func (t *Table) array() []byte {
	array := make([]byte, arrayBytes)
	for i, p := range t.Partitions {
		if p.Type.IsZero() {
			continue
		}
		e := array[i*entryBytes:]
		copy(e, p.Type[:])
		copy(e[16:], p.ID[:])
		little.PutUint64(e[32:], p.First)
		little.PutUint64(e[40:], p.Last)
		little.PutUint64(e[48:], p.Attributes)
		for k, unit := range utf16.Encode([]rune(p.Name)) {
			little.PutUint16(e[56+2*k:], unit)
		}
	}
	return array
}

// header is one block long.
func (t *Table) header(array []byte, here, other, arrayAt uint64) []byte {
	h := make([]byte, t.BlockBytes)
	first, last := t.Usable()
	copy(h, signature)
	little.PutUint32(h[8:], 0x00010000)
	little.PutUint32(h[12:], headerBytes)
	little.PutUint64(h[24:], here)
	little.PutUint64(h[32:], other)
	little.PutUint64(h[40:], first)
	little.PutUint64(h[48:], last)
	copy(h[56:], t.ID[:])
	little.PutUint64(h[72:], arrayAt)
	little.PutUint32(h[80:], entryCount)
	little.PutUint32(h[84:], entryBytes)
	little.PutUint32(h[88:], crc32.ChecksumIEEE(array))
	little.PutUint32(h[16:], crc32.ChecksumIEEE(h[:headerBytes]))
	return h
}

// ProtectiveMBR keeps tools that know no GPT from taking the disk for empty.
// Its first 440 bytes, boot code elsewhere, are zero and free for use.
func (t *Table) ProtectiveMBR() []byte {
	mbr := make([]byte, t.BlockBytes)
	e := mbr[446:]
	copy(e[1:], []byte{0x00, 0x02, 0x00}) // first sector in cylinders and heads
	e[4] = 0xee
	copy(e[5:], []byte{0xff, 0xff, 0xff})
	little.PutUint32(e[8:], 1)
	little.PutUint32(e[12:], uint32(min(t.Blocks-1, 0xffffffff)))
	mbr[510], mbr[511] = 0x55, 0xaa
	return mbr
}

// Read reads the table of a disk of that many blocks. When neither copy is
// valid the error is ErrNone.
func Read(disk io.ReaderAt, blockBytes int, blocks uint64) (*Table, error) {
	if blockBytes != 512 && blockBytes != 4096 || blocks < 8 || blocks > 1<<54 {
		return nil, fmt.Errorf("%w: a disk of %d blocks of %d bytes", ErrNone, blocks, blockBytes)
	}
	t := &Table{BlockBytes: blockBytes, Blocks: blocks}
	primary := t.read(disk, 1)
	if primary == nil {
		return t, nil
	}
	if err := t.read(disk, blocks-1); err != nil {
		return nil, fmt.Errorf("%w: primary: %v, backup: %v", ErrNone, primary, err)
	}
	return t, nil
}

// read reads the copy whose header is at a block.
func (t *Table) read(disk io.ReaderAt, at uint64) error {
	h := make([]byte, t.BlockBytes)
	if _, err := disk.ReadAt(h, t.offset(at)); err != nil {
		return err
	}
	if err := checkHeader(h, at); err != nil {
		return err
	}
	count, size := little.Uint32(h[80:]), little.Uint32(h[84:])
	start := little.Uint64(h[72:])
	if start >= t.Blocks {
		return errors.New("the entries are outside of the disk")
	}
	array := make([]byte, count*size)
	if _, err := disk.ReadAt(array, t.offset(start)); err != nil {
		return err
	}
	if crc32.ChecksumIEEE(array) != little.Uint32(h[88:]) {
		return errors.New("wrong checksum of the entries")
	}
	copy(t.ID[:], h[56:])
	t.Partitions = t.parse(array, int(size))
	return nil
}

func checkHeader(h []byte, at uint64) error {
	if string(h[:8]) != string(signature) {
		return errors.New("no signature")
	}
	size := little.Uint32(h[12:])
	if size < headerBytes || int(size) > len(h) {
		return errors.New("wrong size of the header")
	}
	sum := little.Uint32(h[16:])
	blank := slices.Clone(h[:size])
	little.PutUint32(blank[16:], 0)
	if crc32.ChecksumIEEE(blank) != sum {
		return errors.New("wrong checksum of the header")
	}
	if little.Uint64(h[24:]) != at {
		return errors.New("the header belongs elsewhere")
	}
	count, entry := little.Uint32(h[80:]), little.Uint32(h[84:])
	if count > maxEntries || entry < entryBytes || entry > maxEntryBytes || entry%8 != 0 {
		return fmt.Errorf("%d entries of %d bytes", count, entry)
	}
	return nil
}

// parse returns the entries up to the last used one. Those that no disk could
// hold are gaps.
func (t *Table) parse(array []byte, size int) []Partition {
	var out []Partition
	used := 0
	for at := 0; at+size <= len(array); at += size {
		p := parseEntry(array[at : at+size])
		if p.First > p.Last || p.Last >= t.Blocks {
			p = Partition{}
		}
		out = append(out, p)
		if !p.Type.IsZero() {
			used = len(out)
		}
	}
	return out[:used]
}

func parseEntry(e []byte) Partition {
	p := Partition{First: little.Uint64(e[32:]), Last: little.Uint64(e[40:]), Attributes: little.Uint64(e[48:])}
	copy(p.Type[:], e)
	copy(p.ID[:], e[16:])
	var units []uint16
	for k := range nameUnits {
		unit := little.Uint16(e[56+2*k:])
		if unit == 0 {
			break
		}
		units = append(units, unit)
	}
	p.Name = string(utf16.Decode(units))
	return p
}
