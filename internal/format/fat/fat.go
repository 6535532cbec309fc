// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package fat writes FAT32 file systems, for the partition that firmware boots
// from.
//
// Format makes a new file system with all of its files in one pass: nothing is
// ever changed or removed, so files lie in one piece, in the order of their
// paths. The volume is expected to read as zeros where nothing was written
// (a new file, a hole); only what is not zero is written. Equal input gives
// equal bytes: the identity of the volume and its one time are given.
//
// Names are ASCII, as firmware compares them without regard to case; each has
// a short name too, which is made where the name itself does not fit.
package fat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

var little = binary.LittleEndian

// Options of a volume.
type Options struct {
	Bytes int64 // of the volume
	// Start is the volume's offset on its disk, in bytes.
	Start int64
	Label string // at most 11 upper-case letters, digits, spaces and dashes
	ID    uint32
	Time  time.Time // of all files, in UTC
	// ClusterBytes is 512, 1024, 2048 or 4096; 0: 4096. FAT32 has at least 65,525
	// clusters, so small ones make small volumes possible: 34 MB instead of 256 MiB.
	ClusterBytes int
}

// File is a file of the volume. Its directories are made.
type File struct {
	Path string // with slashes, relative to the root
	Data []byte
}

// The layout. Every file begins at a multiple of 4 KiB, for the kernel's page
// cache, and so that other formats can point at it.
const (
	sectorBytes     = 512
	alignBytes      = 4096
	reservedSectors = 32
	fatCopies       = 2
	infoSector      = 1
	backupSector    = 6
	rootCluster     = 2

	minClusters = 65525 // with fewer it is FAT16, whatever it calls itself
	maxClusters = 1 << 22

	endOfChain = 0x0fffffff
	media      = 0xf8
)

// volume is a file system being written.
type volume struct {
	Options
	w          io.WriterAt
	sectors    uint32
	fatSectors uint32
	clusters   uint32
	used       uint32
	chain      []uint32 // the FAT, as far as it is used
}

// Format writes the file system into w.
func Format(w io.WriterAt, o Options, files []File) error {
	v, root, err := lay(o, files)
	if err != nil {
		return fmt.Errorf("make a FAT file system: %w", err)
	}
	v.w = w
	for _, step := range []func() error{func() error { return v.writeTree(root) }, v.writeFATs, v.writeReserved} {
		if err := step(); err != nil {
			return fmt.Errorf("write a FAT file system: %w", err)
		}
	}
	return nil
}

// Offsets returns where in the volume that Format makes of the same arguments
// the contents of each file begin, by path. Each lies there in one piece. Empty
// files are left out.
func Offsets(o Options, files []File) (map[string]int64, error) {
	v, root, err := lay(o, files)
	if err != nil {
		return nil, fmt.Errorf("make a FAT file system: %w", err)
	}
	out := map[string]int64{}
	v.offsets(root, "", out)
	return out, nil
}

// lay gives everything its place.
func lay(o Options, files []File) (*volume, *node, error) {
	v := &volume{Options: o, chain: []uint32{0x0fffff00 | media, endOfChain}}
	if v.ClusterBytes == 0 {
		v.ClusterBytes = alignBytes
	}
	if err := v.measure(); err != nil {
		return nil, nil, err
	}
	root, err := newTree(files)
	if err != nil {
		return nil, nil, err
	}
	return v, root, v.place(root)
}

// measure finds how many clusters there are, and how long a FAT for them is.
func (v *volume) measure() error {
	switch v.ClusterBytes {
	case 512, 1024, 2048, 4096:
	default:
		return fmt.Errorf("clusters of %d bytes", v.ClusterBytes)
	}
	if v.Bytes%alignBytes != 0 || v.Start%sectorBytes != 0 || v.Start < 0 || v.Start/sectorBytes > 1<<32-1 {
		return fmt.Errorf("%d bytes at %d: not a multiple of %d and of sectors", v.Bytes, v.Start, alignBytes)
	}
	if v.Bytes < 0 || v.Bytes/int64(v.ClusterBytes) > maxClusters {
		return fmt.Errorf("%d bytes are too many", v.Bytes)
	}
	if err := checkLabel(v.Label); err != nil {
		return err
	}
	if y := v.Time.UTC().Year(); y < 1980 || y > 2107 {
		return fmt.Errorf("the year %d cannot be written", y)
	}
	v.sectors = uint32(v.Bytes / sectorBytes)
	// FATs of whole aligned blocks keep the data aligned. A FAT for all sectors
	// is a little longer than one for those that are left beside it.
	entries := v.sectors/v.clusterSectors() + rootCluster
	v.fatSectors = (entries*4 + alignBytes - 1) / alignBytes * (alignBytes / sectorBytes)
	overhead := uint32(reservedSectors + fatCopies*v.fatSectors)
	if v.sectors > overhead {
		v.clusters = (v.sectors - overhead) / v.clusterSectors()
	}
	if v.clusters < minClusters {
		return fmt.Errorf("%d bytes are too few for FAT32", v.Bytes)
	}
	return nil
}

func (v *volume) clusterSectors() uint32 { return uint32(v.ClusterBytes) / sectorBytes }

func checkLabel(label string) error {
	if label == "" || len(label) > 11 {
		return fmt.Errorf("label %q: use 1 to 11 characters", label)
	}
	for _, c := range []byte(label) {
		if !(c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == ' ' || c == '-') {
			return fmt.Errorf("label %q: use upper-case letters, digits, spaces and dashes", label)
		}
	}
	return nil
}

var errFull = errors.New("the files do not fit")

// allocate returns the first of a chain of clusters that hold n bytes. What it
// leaves out to begin aligned stays free.
func (v *volume) allocate(n int) (uint32, error) {
	count := (n + v.ClusterBytes - 1) / v.ClusterBytes
	if count == 0 {
		return 0, nil
	}
	for step := alignBytes / v.ClusterBytes; (len(v.chain)-rootCluster)%step != 0; {
		v.chain = append(v.chain, 0)
	}
	first := len(v.chain)
	if first+count > int(v.clusters)+rootCluster {
		return 0, errFull
	}
	for i := range count - 1 {
		v.chain = append(v.chain, uint32(first+i+1))
	}
	v.chain = append(v.chain, endOfChain)
	v.used += uint32(count)
	return uint32(first), nil
}

// offset of a cluster in the volume.
func (v *volume) offset(cluster uint32) int64 {
	data := int64(reservedSectors + fatCopies*v.fatSectors)
	return data*sectorBytes + int64(cluster-rootCluster)*int64(v.ClusterBytes)
}

func (v *volume) writeFATs() error {
	fat := make([]byte, 4*len(v.chain))
	for i, next := range v.chain {
		little.PutUint32(fat[4*i:], next)
	}
	for i := range int64(fatCopies) {
		if _, err := v.w.WriteAt(fat, (reservedSectors+i*int64(v.fatSectors))*sectorBytes); err != nil {
			return err
		}
	}
	return nil
}

// writeReserved writes the boot sector and what belongs to it, twice.
func (v *volume) writeReserved() error {
	head := make([]byte, 3*sectorBytes)
	copy(head, v.bootSector())
	copy(head[infoSector*sectorBytes:], v.info())
	copy(head[2*sectorBytes+510:], []byte{0x55, 0xaa})
	for _, at := range []int64{0, backupSector} {
		if _, err := v.w.WriteAt(head, at*sectorBytes); err != nil {
			return err
		}
	}
	return nil
}

func (v *volume) bootSector() []byte {
	b := make([]byte, sectorBytes)
	copy(b, "\xeb\x58\x90WHERRY  ")
	little.PutUint16(b[11:], sectorBytes)
	b[13] = byte(v.clusterSectors())
	little.PutUint16(b[14:], reservedSectors)
	b[16] = fatCopies
	b[21] = media
	little.PutUint16(b[24:], 63)  // sectors of a track, and heads: nobody
	little.PutUint16(b[26:], 255) // believes them, but all look
	little.PutUint32(b[28:], uint32(v.Start/sectorBytes))
	little.PutUint32(b[32:], v.sectors)
	little.PutUint32(b[36:], v.fatSectors)
	little.PutUint32(b[44:], rootCluster)
	little.PutUint16(b[48:], infoSector)
	little.PutUint16(b[50:], backupSector)
	b[64] = 0x80 // a fixed disk
	b[66] = 0x29 // the next three fields are there
	little.PutUint32(b[67:], v.ID)
	copy(b[71:], padded(v.Label))
	copy(b[82:], "FAT32   ")
	b[510], b[511] = 0x55, 0xaa
	return b
}

// info tells how much is free and from where on.
func (v *volume) info() []byte {
	b := make([]byte, sectorBytes)
	copy(b, "RRaA")
	copy(b[484:], "rrAa")
	little.PutUint32(b[488:], v.clusters-v.used)
	little.PutUint32(b[492:], uint32(len(v.chain)))
	b[510], b[511] = 0x55, 0xaa
	return b
}

func padded(label string) string { return fmt.Sprintf("%-11s", label) }
