// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package vhd makes a raw disk a fixed VHD, as Hyper-V and Azure have them: the
// disk as it is, and a footer of one sector behind it.
//
// The footer tells the size twice, in bytes and as cylinders, heads and sectors,
// and readers differ in which they believe; some decide by the program that
// made the disk. So only sizes are taken for which both say the same: Round
// finds one, which is also the whole number of MiB that Azure demands. Equal
// input gives equal bytes. Nothing here does I/O.
package vhd

import (
	"encoding/binary"
	"fmt"
	"time"
)

const (
	// FooterBytes is how much longer the file is than the disk.
	FooterBytes = 512

	sectorBytes = 512
	mebibyte    = 1 << 20
	maxSectors  = 65535 * 16 * 255 // what cylinders, heads and sectors can say
	fixed       = 2
)

var big = binary.BigEndian

// epoch is what the footer's time counts from.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// Footer returns what is written behind a disk of size bytes.
func Footer(size int64, id [16]byte, made time.Time) ([]byte, error) {
	if size <= 0 || size%mebibyte != 0 || size/sectorBytes > maxSectors {
		return nil, fmt.Errorf("make a VHD: %d bytes: want a whole number of MiB, up to 127 GiB", size)
	}
	cylinders, heads, sectors := geometry(size / sectorBytes)
	if cylinders*heads*sectors*sectorBytes != size {
		return nil, fmt.Errorf("make a VHD: %d bytes are not a whole number of cylinders", size)
	}
	seconds := made.Sub(epoch) / time.Second
	if seconds < 0 || seconds > 1<<32-1 {
		return nil, fmt.Errorf("make a VHD: the time %v cannot be written", made)
	}
	b := make([]byte, FooterBytes)
	copy(b, "conectix")
	big.PutUint32(b[8:], 2) // a bit that is always set
	big.PutUint32(b[12:], 0x00010000)
	big.PutUint64(b[16:], 1<<64-1) // nothing else follows
	big.PutUint32(b[24:], uint32(seconds))
	copy(b[28:], "whry")
	big.PutUint32(b[32:], 0x00010000)
	copy(b[36:], "Wi2k") // the host's system: there are two to choose from
	big.PutUint64(b[40:], uint64(size))
	big.PutUint64(b[48:], uint64(size))
	big.PutUint16(b[56:], uint16(cylinders))
	b[58], b[59] = byte(heads), byte(sectors)
	big.PutUint32(b[60:], fixed)
	copy(b[68:], id[:])
	var sum uint32
	for _, c := range b {
		sum += uint32(c)
	}
	big.PutUint32(b[64:], ^sum)
	return b, nil
}

// Round returns the smallest size that is at least n and that Footer takes; 0
// when there is none.
func Round(n int64) int64 {
	for size := (max(n, 1) + mebibyte - 1) / mebibyte * mebibyte; size/sectorBytes <= maxSectors; size += mebibyte {
		if c, h, s := geometry(size / sectorBytes); c*h*s*sectorBytes == size {
			return size
		}
	}
	return 0
}

// geometry is the one that the format prescribes for a number of sectors, which may
// be too small by a part of a cylinder.
func geometry(total int64) (cylinders, heads, sectors int64) {
	if total >= 65535*16*63 {
		return total / 255 / 16, 16, 255
	}
	sectors = 17
	tracks := total / sectors
	heads = max((tracks+1023)/1024, 4)
	if tracks >= heads*1024 || heads > 16 {
		sectors, heads = 31, 16
		tracks = total / sectors
	}
	if tracks >= heads*1024 {
		sectors, heads = 63, 16
		tracks = total / sectors
	}
	return tracks / heads, heads, sectors
}
