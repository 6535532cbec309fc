// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package vmdk writes disk images in VMware's stream-optimised format, as it is
// in an OVA and as clouds import it.
//
// Write copies a raw disk in grains of 64 KiB, each compressed by itself. Grains
// of zeros are left out. The file is written from its beginning to its end, and
// can be read that way: a marker before each part says what follows, the
// directory of all grains comes last, and the footer behind it leads to it.
// Equal disks give equal bytes.
package vmdk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zlib"
)

const (
	sectorBytes  = 512
	grainSectors = 128
	grainBytes   = grainSectors * sectorBytes
	// grainsPerTable is how many entries a grain table has.
	grainsPerTable = 512
	tableSectors   = grainsPerTable * 4 / sectorBytes

	descriptorSectors = 20
	overheadSectors   = 128 // the first grain lies behind that
	atEnd             = 1<<64 - 1
	maxBytes          = 1 << 40

	// What a marker announces.
	markTable     = 1
	markDirectory = 2
	markFooter    = 3
	markEnd       = 0
)

var (
	little = binary.LittleEndian
	zeros  = make([]byte, grainBytes)
)

// Disk is what is copied.
type Disk interface {
	io.ReaderAt
	// Blank tells that these bytes are zeros for sure, so that large disks with
	// little on them need not be read. False means that they must be looked at.
	Blank(offset, n int64) bool
}

// Options of an image.
type Options struct {
	Bytes int64 // of the disk
	// Name is the file's, as the descriptor in it calls it.
	Name string
	// ID tells this content from another one of the same disk; not 0xffffffff.
	ID uint32
}

// writer is an image being written.
type writer struct {
	Options
	w         io.Writer
	at        uint32 // in sectors
	directory []uint32
	packed    bytes.Buffer
	deflate   *zlib.Writer
	grain     []byte
}

// Write writes the disk to out.
func Write(out io.Writer, disk Disk, o Options) error {
	if o.Bytes <= 0 || o.Bytes%grainBytes != 0 || o.Bytes > maxBytes || o.ID == 1<<32-1 {
		return fmt.Errorf("write a VMDK: a disk of %d bytes: want a multiple of %d", o.Bytes, grainBytes)
	}
	w := &writer{Options: o, w: out, grain: make([]byte, grainBytes)}
	w.deflate = zlib.NewWriter(&w.packed)
	if err := w.write(disk); err != nil {
		return fmt.Errorf("write a VMDK: %w", err)
	}
	return nil
}

func (w *writer) write(disk Disk) error {
	descriptor := w.descriptor()
	if len(descriptor) > descriptorSectors*sectorBytes {
		return fmt.Errorf("the name %.100q is too long", w.Name)
	}
	head := make([]byte, overheadSectors*sectorBytes)
	copy(head, w.header(atEnd))
	copy(head[sectorBytes:], descriptor)
	if err := w.put(head); err != nil {
		return err
	}
	const tableBytes = grainsPerTable * grainBytes
	for at := int64(0); at < w.Bytes; at += tableBytes {
		if err := w.table(disk, at, min(tableBytes, w.Bytes-at)); err != nil {
			return err
		}
	}
	return w.finish()
}

// table writes the grains of a part of the disk, and the table of where they are.
func (w *writer) table(disk Disk, at, n int64) error {
	table := make([]byte, tableSectors*sectorBytes)
	used := false
	grains := n / grainBytes
	if disk.Blank(at, n) {
		grains = 0
	}
	for i := range grains {
		sector, err := w.copyGrain(disk, at+i*grainBytes)
		if err != nil {
			return err
		}
		little.PutUint32(table[i*4:], sector)
		used = used || sector != 0
	}
	if !used {
		w.directory = append(w.directory, 0)
		return nil
	}
	if err := w.marker(tableSectors, markTable); err != nil {
		return err
	}
	w.directory = append(w.directory, w.at)
	return w.put(table)
}

// copyGrain returns the sector where the grain is written; 0: it is zeros.
func (w *writer) copyGrain(disk Disk, at int64) (uint32, error) {
	if disk.Blank(at, grainBytes) {
		return 0, nil
	}
	if n, err := disk.ReadAt(w.grain, at); n < grainBytes {
		return 0, fmt.Errorf("read the disk: %w", err)
	}
	if bytes.Equal(w.grain, zeros) {
		return 0, nil
	}
	w.packed.Reset()
	w.packed.Write(make([]byte, 12))
	w.deflate.Reset(&w.packed)
	_, err := w.deflate.Write(w.grain)
	if err := errors.Join(err, w.deflate.Close()); err != nil {
		return 0, err
	}
	b := w.packed.Bytes()
	little.PutUint64(b, uint64(at/sectorBytes))
	little.PutUint32(b[8:], uint32(len(b)-12))
	sector := w.at
	return sector, w.put(b)
}

// finish writes the directory, and the header once more with its place.
func (w *writer) finish() error {
	directory := make([]byte, 0, len(w.directory)*4)
	for _, sector := range w.directory {
		directory = little.AppendUint32(directory, sector)
	}
	if err := w.marker(sectors(len(directory)), markDirectory); err != nil {
		return err
	}
	place := uint64(w.at)
	if err := w.put(directory); err != nil {
		return err
	}
	if err := w.marker(1, markFooter); err != nil {
		return err
	}
	if err := w.put(w.header(place)); err != nil {
		return err
	}
	return w.marker(0, markEnd)
}

func (w *writer) marker(length uint64, kind uint32) error {
	b := make([]byte, sectorBytes)
	little.PutUint64(b, length)
	little.PutUint32(b[12:], kind)
	return w.put(b)
}

// put writes whole sectors.
func (w *writer) put(b []byte) error {
	n := sectors(len(b))
	if uint64(w.at)+n > 1<<32-1 {
		return errors.New("the image is too large")
	}
	w.at += uint32(n)
	if _, err := w.w.Write(b); err != nil {
		return err
	}
	_, err := w.w.Write(make([]byte, int(n)*sectorBytes-len(b)))
	return err
}

func sectors(n int) uint64 { return uint64(n+sectorBytes-1) / sectorBytes }

// header is the first sector; the one that says where the directory is lies in the footer.
func (w *writer) header(directory uint64) []byte {
	const lineTests, packed, markers = 1 << 0, 1 << 16, 1 << 17
	b := make([]byte, sectorBytes)
	copy(b, "KDMV")
	little.PutUint32(b[4:], 3)
	little.PutUint32(b[8:], lineTests|packed|markers)
	little.PutUint64(b[12:], uint64(w.Bytes/sectorBytes))
	little.PutUint64(b[20:], grainSectors)
	little.PutUint64(b[28:], 1)
	little.PutUint64(b[36:], descriptorSectors)
	little.PutUint32(b[44:], grainsPerTable)
	little.PutUint64(b[56:], directory)
	little.PutUint64(b[64:], overheadSectors)
	copy(b[73:], "\n \r\n") // damaged where somebody took the file for text
	little.PutUint16(b[77:], 1)
	return b
}

// descriptor is the part that people can read.
func (w *writer) descriptor() string {
	const heads, track = 255, 63
	return fmt.Sprintf(`# Disk DescriptorFile
version=1
CID=%08x
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW %d SPARSE "%s"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "13"
ddb.geometry.cylinders = "%d"
ddb.geometry.heads = "%d"
ddb.geometry.sectors = "%d"
ddb.adapterType = "lsilogic"
`, w.ID, w.Bytes/sectorBytes, w.Name, min(w.Bytes/sectorBytes/heads/track, 65535), heads, track)
}
