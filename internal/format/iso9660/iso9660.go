// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package iso9660 writes what makes an image a CD that UEFI firmware starts
// from: ECMA-119 descriptors and directories, with Rock Ridge for names as they
// are, and El Torito's boot catalog.
//
// A Volume says where in the image the contents of files lie, and Encode returns
// the descriptors, tables and directories, to be put at Start. The contents are
// the caller's: files may lie inside of another file system in the same image,
// which is what makes a hybrid image hold them once. The first 32 KiB, for a
// partition table, are nobody's here. Equal volumes give equal bytes. Nothing
// here does I/O.
//
// Every name is written twice: as Rock Ridge has it, and in capitals with
// underlines for those who read nothing else.
package iso9660

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

const (
	// BlockBytes is the unit of everything on a CD.
	BlockBytes = 2048
	// Start is where the encoded volume belongs in the image.
	Start = firstBlock * BlockBytes

	firstBlock     = 16
	pathTableBlock = firstBlock + 3 // behind the three descriptors
	platformEFI    = 0xef
)

var (
	little = binary.LittleEndian
	big    = binary.BigEndian
)

// Volume is a CD that is being made.
type Volume struct {
	Label string    // at most 32 capital letters, digits and underlines
	Time  time.Time // of everything
	// Blocks of the whole image.
	Blocks uint32
	// Boot is the first block of the file system that firmware starts from. It is
	// taken to reach to the end of the image: El Torito cannot say more than 32 MiB.
	Boot  uint32
	Files []File
}

// File is a file whose contents lie in one piece somewhere in the image. Its
// directories are made.
type File struct {
	Path  string // with slashes, relative to the root
	Block uint32
	Bytes uint32
}

// Encode returns the bytes from Start on.
func (v Volume) Encode() ([]byte, error) {
	if err := v.check(); err != nil {
		return nil, fmt.Errorf("make an ISO 9660 volume: %w", err)
	}
	root, err := newTree(v.Files)
	if err != nil {
		return nil, fmt.Errorf("make an ISO 9660 volume: %w", err)
	}
	dirs := root.byLevel()
	table := int(blocks(pathTableBytes(dirs)))
	catalog := pathTableBlock + 2*table
	next := uint32(catalog + 1)
	for _, d := range dirs {
		d.block = next
		next += d.bytes / BlockBytes
	}
	continued := next // of the root's entry; some read forward only
	next++
	if next > v.Boot {
		return nil, fmt.Errorf("make an ISO 9660 volume: %d blocks of directories reach into the boot image at block %d", next, v.Boot)
	}
	out := make([]byte, (next-firstBlock)*BlockBytes)
	at := func(block int) []byte { return out[(block-firstBlock)*BlockBytes:] }
	v.primary(at(firstBlock), root, pathTableBytes(dirs), table)
	bootRecord(at(firstBlock+1), uint32(catalog))
	copy(at(firstBlock+2), "\xffCD001\x01")
	copy(at(pathTableBlock), pathTable(dirs, little))
	copy(at(pathTableBlock+table), pathTable(dirs, big))
	v.catalog(at(catalog))
	copy(at(int(continued)), rockRidge())
	for _, d := range dirs {
		v.directory(at(int(d.block)), d, continued)
	}
	return out, nil
}

func (v Volume) check() error {
	if v.Label == "" || len(v.Label) > 32 || strings.Trim(v.Label, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
		return fmt.Errorf("label %q: use 1 to 32 capital letters, digits and underlines", v.Label)
	}
	if y := v.Time.UTC().Year(); y < 1900 || y > 2155 {
		return fmt.Errorf("the year %d cannot be written", y)
	}
	if v.Boot >= v.Blocks {
		return fmt.Errorf("the boot image at block %d is outside of %d blocks", v.Boot, v.Blocks)
	}
	for _, f := range v.Files {
		if uint64(f.Block)+uint64(blocks(f.Bytes)) > uint64(v.Blocks) {
			return fmt.Errorf("file %q at block %d is outside of %d blocks", f.Path, f.Block, v.Blocks)
		}
	}
	return nil
}

// primary is the descriptor that everything is found from.
func (v Volume) primary(b []byte, root *node, tableBytes uint32, table int) {
	copy(b, "\x01CD001\x01")
	copy(b[8:], strings.Repeat(" ", 32)) // system
	copy(b[40:], fmt.Sprintf("%-32s", v.Label))
	both32(b[80:], v.Blocks)
	both16(b[120:], 1) // volumes in the set
	both16(b[124:], 1) // this one
	both16(b[128:], BlockBytes)
	both32(b[132:], tableBytes)
	little.PutUint32(b[140:], pathTableBlock)
	big.PutUint32(b[148:], uint32(pathTableBlock+table))
	copy(b[156:], v.record("\x00", root.block, root.bytes, true, nil))
	copy(b[190:], strings.Repeat(" ", 813-190)) // who made what of what
	copy(b[574:], "WHERRY")
	stamp := v.Time.UTC().Format("20060102150405") + "00\x00"
	none := "0000000000000000\x00"
	copy(b[813:], stamp+stamp+none+stamp) // made, changed, not after, not before
	b[881] = 1
}

// bootRecord leads to the catalog. Firmware looks for it in block 17.
func bootRecord(b []byte, catalog uint32) {
	copy(b, "\x00CD001\x01EL TORITO SPECIFICATION")
	little.PutUint32(b[71:], catalog)
}

// catalog has one entry: an image for UEFI that is not emulated as a floppy disk.
func (v Volume) catalog(b []byte) {
	b[0], b[1] = 1, platformEFI
	copy(b[4:], "Wherry")
	b[30], b[31] = 0x55, 0xaa
	var sum uint16
	for i := 0; i < 32; i += 2 {
		sum += little.Uint16(b[i:])
	}
	little.PutUint16(b[28:], -sum)
	entry := b[32:]
	entry[0] = 0x88 // it can be started
	// Of 512 bytes each. UEFI takes 0 and 1 for "to the end of the CD".
	little.PutUint16(entry[6:], 1)
	little.PutUint32(entry[8:], v.Boot)
}

// both writes a number as ECMA-119 has them: in either order of its bytes.
func both32(b []byte, n uint32) {
	little.PutUint32(b, n)
	big.PutUint32(b[4:], n)
}

func both16(b []byte, n uint16) {
	little.PutUint16(b, n)
	big.PutUint16(b[2:], n)
}

// blocks rounds up.
func blocks(n uint32) uint32 { return uint32((uint64(n) + BlockBytes - 1) / BlockBytes) }
