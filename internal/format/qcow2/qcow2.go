// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package qcow2 writes disk images in QEMU's format, version 3.
//
// Write copies a raw disk: clusters of zeros are left out, the others follow
// one another in the disk's order, so that the file is as small as what is on
// the disk and is written from its beginning to its end. There is no
// compression (what Wherry's disks hold is compressed already), no backing
// file, no snapshot. Equal disks give equal bytes.
//
// The disk is read twice; when it changes meanwhile, the copy is wrong.
package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

var big = binary.BigEndian

const (
	clusterBits  = 16
	clusterBytes = 1 << clusterBits
	sectorBytes  = 512
	version      = 3
	headerBytes  = 104

	refcountOrder = 4 // counts of 1<<4 bits
	// countsPerBlock is how many clusters one block of counts tells of.
	countsPerBlock = clusterBytes / 2
	// mapsPerTable is how many 8-byte entries a cluster holds.
	mapsPerTable = clusterBytes / 8
	// copied says that a cluster belongs to this image alone.
	copied = 1 << 63

	// maxBytes of a disk: the top table has then 2048 entries, a quarter of a cluster.
	maxBytes = 1 << 40
)

// layout says which cluster of the file holds what. Everything is in units of
// clusters, and in this order.
type layout struct {
	size      int64
	used      []int64 // clusters of the disk that are not zero, in order
	tables    []int64 // second-level tables that are needed: their index in the top table
	refTable  int64   // clusters of the table of count blocks
	refBlocks int64
	top       int64 // clusters of the top table
}

func (l *layout) refTableAt() int64  { return 1 }
func (l *layout) refBlocksAt() int64 { return l.refTableAt() + l.refTable }
func (l *layout) topAt() int64       { return l.refBlocksAt() + l.refBlocks }
func (l *layout) tablesAt() int64    { return l.topAt() + l.top }
func (l *layout) dataAt() int64      { return l.tablesAt() + int64(len(l.tables)) }
func (l *layout) clusters() int64    { return l.dataAt() + int64(len(l.used)) }
func (l *layout) topEntries() int64  { return divide(divide(l.size, clusterBytes), mapsPerTable) }

// Write writes the disk of size bytes to w.
func Write(w io.Writer, disk io.ReaderAt, size int64) error {
	l, err := plan(disk, size)
	if err != nil {
		return fmt.Errorf("read the disk: %w", err)
	}
	for _, part := range [][]byte{l.header(), l.counts(), l.maps()} {
		if _, err := w.Write(part); err != nil {
			return fmt.Errorf("write a qcow2 image: %w", err)
		}
	}
	cluster := make([]byte, clusterBytes)
	for _, at := range l.used {
		if err := readCluster(disk, size, at, cluster); err != nil {
			return fmt.Errorf("read the disk: %w", err)
		}
		if _, err := w.Write(cluster); err != nil {
			return fmt.Errorf("write a qcow2 image: %w", err)
		}
	}
	return nil
}

// plan finds what is on the disk and where it goes.
func plan(disk io.ReaderAt, size int64) (*layout, error) {
	if size <= 0 || size%sectorBytes != 0 || size > maxBytes {
		return nil, fmt.Errorf("%d bytes are no disk", size)
	}
	l := &layout{size: size}
	cluster, zeros := make([]byte, clusterBytes), make([]byte, clusterBytes)
	for at := range divide(size, clusterBytes) {
		if err := readCluster(disk, size, at, cluster); err != nil {
			return nil, err
		}
		if bytes.Equal(cluster, zeros) {
			continue
		}
		l.used = append(l.used, at)
		if table := at / mapsPerTable; len(l.tables) == 0 || l.tables[len(l.tables)-1] != table {
			l.tables = append(l.tables, table)
		}
	}
	l.top = divide(l.topEntries()*8, clusterBytes)
	// Counts count themselves: more blocks of them may need more.
	for {
		blocks := divide(l.clusters(), countsPerBlock)
		table := divide(blocks*8, clusterBytes)
		if blocks == l.refBlocks && table == l.refTable {
			return l, nil
		}
		l.refBlocks, l.refTable = blocks, table
	}
}

func readCluster(disk io.ReaderAt, size, at int64, into []byte) error {
	n := min(clusterBytes, size-at*clusterBytes)
	clear(into[n:])
	got, err := disk.ReadAt(into[:n], at*clusterBytes)
	if int64(got) == n && errors.Is(err, io.EOF) {
		return nil // io.ReaderAt may say so of the last bytes
	}
	return err
}

// header is the first cluster.
func (l *layout) header() []byte {
	h := make([]byte, clusterBytes)
	copy(h, "QFI\xfb")
	big.PutUint32(h[4:], version)
	big.PutUint32(h[20:], clusterBits)
	big.PutUint64(h[24:], uint64(l.size))
	big.PutUint32(h[36:], uint32(l.topEntries()))
	big.PutUint64(h[40:], uint64(l.topAt()*clusterBytes))
	big.PutUint64(h[48:], uint64(l.refTableAt()*clusterBytes))
	big.PutUint32(h[56:], uint32(l.refTable))
	big.PutUint32(h[96:], refcountOrder)
	big.PutUint32(h[100:], headerBytes)
	return h
}

// counts are the table of count blocks and the blocks: each cluster is used once.
func (l *layout) counts() []byte {
	b := make([]byte, (l.refTable+l.refBlocks)*clusterBytes)
	for i := range l.refBlocks {
		big.PutUint64(b[i*8:], uint64((l.refBlocksAt()+i)*clusterBytes))
	}
	blocks := b[l.refTable*clusterBytes:]
	for i := range l.clusters() {
		big.PutUint16(blocks[i*2:], 1)
	}
	return b
}

// maps are the top table and the second-level tables.
func (l *layout) maps() []byte {
	b := make([]byte, (l.top+int64(len(l.tables)))*clusterBytes)
	for i, index := range l.tables {
		big.PutUint64(b[index*8:], copied|uint64((l.tablesAt()+int64(i))*clusterBytes))
	}
	tables := b[l.top*clusterBytes:]
	table := 0
	for i, at := range l.used {
		for l.tables[table] != at/mapsPerTable {
			table++
		}
		entry := int64(table)*clusterBytes + at%mapsPerTable*8
		big.PutUint64(tables[entry:], copied|uint64((l.dataAt()+int64(i))*clusterBytes))
	}
	return b
}

// divide rounds up.
func divide(n, by int64) int64 { return (n + by - 1) / by }
