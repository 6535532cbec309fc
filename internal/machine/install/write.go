// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"wherry.example/wherry/internal/disklayout"
	"wherry.example/wherry/internal/format/efiload"
	"wherry.example/wherry/internal/format/fat"
	"wherry.example/wherry/internal/format/gpt"
)

// mark is what an unfinished disk begins with. It is no boot sector: neither
// firmware nor another system takes the disk for anything.
var mark = []byte("Wherry is being installed here. It holds nothing yet.\x00")

const (
	blockBytes = 512
	// pieceBytes are written, wiped and read at once; between them it is told how far it is.
	pieceBytes = 4 << 20
	edgeBytes  = gpt.Alignment
)

// target is a disk as it is written.
type target interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	ZeroOut(offset, n int64) error
	DropCache() error
}

// layout is the disk to be.
type layout struct {
	table      *gpt.Table
	boot       disklayout.Boot
	files      []fat.File
	volume     fat.Options
	bootStart  int64
	stateStart int64
	stateBytes int64
}

// newLayout plans a disk of size bytes. identity is that of its boot partition.
func newLayout(size int64, b disklayout.Boot, identity gpt.GUID, state StateMaker, now time.Time) (*layout, error) {
	files, err := b.Files()
	if err != nil {
		return nil, err
	}
	t := disklayout.Fresh(gpt.RandomGUID(random()), identity, blockBytes, uint64(size)/blockBytes)
	first, last, ok := disklayout.Room(t)
	if !ok || int64(last)-int64(first) < state.MinBytes()/blockBytes {
		return nil, errors.New("the disk has no room for the state")
	}
	t.Partitions = append(t.Partitions, state.Partition(first, last))
	id := random()
	l := &layout{
		table: t, boot: b, files: files, bootStart: int64(t.Partitions[0].First) * blockBytes,
		stateStart: int64(first) * blockBytes, stateBytes: int64(last+1-first) * blockBytes,
	}
	l.volume = fat.Options{
		Bytes: disklayout.BootBytes, Start: l.bootStart, Label: disklayout.VolumeLabel,
		ID: binary.LittleEndian.Uint32(id[:]), Time: sane(now),
	}
	return l, nil
}

// sane is a time that a file can have, whatever the clock says.
func sane(now time.Time) time.Time {
	if first := time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC); now.Before(first) || now.Year() > 2100 {
		return first
	}
	return now
}

// place is the boot partition as the firmware knows it.
func (l *layout) place() efiload.Partition {
	p := l.table.Partitions[0]
	return efiload.Partition{Number: 1, First: p.First, Blocks: p.Last + 1 - p.First, ID: p.ID}
}

// clear takes the disk's old contents out of everybody's sight: first the mark,
// so that from here on it is an unfinished disk, then both tables, and the
// beginnings of what lies where the new partitions will be.
func (l *layout) clear(d target) error {
	block := make([]byte, blockBytes)
	copy(block, mark)
	if err := writeSynced(d, block, 0); err != nil {
		return err
	}
	size := int64(l.table.Blocks) * blockBytes
	for _, r := range [][2]int64{{blockBytes, edgeBytes - blockBytes}, {size - edgeBytes, edgeBytes}, {l.stateStart - edgeBytes, 2 * edgeBytes}} {
		if err := d.ZeroOut(r[0], r[1]); err != nil {
			return err
		}
	}
	return d.Sync()
}

// writeBoot makes the boot partition's file system.
func (l *layout) writeBoot(d target, step stepper) error {
	for at := int64(0); at < l.volume.Bytes; at += pieceBytes {
		if err := d.ZeroOut(l.bootStart+at, min(pieceBytes, l.volume.Bytes-at)); err != nil {
			return err
		}
		step("preparing the boot partition", at+pieceBytes, l.volume.Bytes)
	}
	w := &pieces{w: io.NewOffsetWriter(d, l.bootStart), step: step, total: l.bytes()}
	if err := fat.Format(w, l.volume, l.files); err != nil {
		return err
	}
	return d.Sync()
}

func (l *layout) bytes() (n int64) {
	for _, f := range l.files {
		n += int64(len(f.Data))
	}
	return n
}

// pieces writes in pieces, so that it can be told how far it is.
type pieces struct {
	w     io.WriterAt
	step  stepper
	done  int64
	total int64
}

func (p *pieces) WriteAt(data []byte, offset int64) (n int, err error) {
	for len(data) > 0 {
		m, err := p.w.WriteAt(data[:min(len(data), pieceBytes)], offset)
		n += m
		p.done += int64(m)
		p.step("writing the operating system", min(p.done, p.total), p.total)
		if err != nil {
			return n, err
		}
		data, offset = data[m:], offset+int64(m)
	}
	return n, nil
}

// check reads every file back from the disk.
func (l *layout) check(d target, step stepper) error {
	if err := d.DropCache(); err != nil {
		return err
	}
	offsets, err := fat.Offsets(l.volume, l.files)
	if err != nil {
		return err
	}
	var done int64
	piece := make([]byte, pieceBytes)
	for _, f := range l.files {
		for data, at := f.Data, l.bootStart+offsets[f.Path]; len(data) > 0; {
			got := piece[:min(len(data), len(piece))]
			if _, err := d.ReadAt(got, at); err != nil {
				return err
			}
			if !bytes.Equal(got, data[:len(got)]) {
				return fmt.Errorf("%s was written and reads otherwise: the disk is defective", f.Path)
			}
			data, at, done = data[len(got):], at+int64(len(got)), done+int64(len(got))
			step("reading it back", done, l.bytes())
		}
	}
	return nil
}

// finish writes the partition table: its copy, the table, and last the sector
// that takes the mark's place.
func (l *layout) finish(d target) error {
	writes, err := l.table.Writes()
	if err != nil {
		return err
	}
	for _, w := range writes {
		if err := writeSynced(d, w.Data, w.Offset); err != nil {
			return err
		}
	}
	return nil
}

func writeSynced(d target, data []byte, offset int64) error {
	_, err := d.WriteAt(data, offset)
	return errors.Join(err, d.Sync())
}

func random() (b [16]byte) {
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return b
}
