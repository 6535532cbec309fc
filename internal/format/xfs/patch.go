// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package xfs

import (
	"errors"
	"fmt"
	"math/bits"
)

// Offsets in the superblock (struct xfs_dsb).
const (
	sbBlockSize   = 4
	sbDataBlocks  = 8
	sbUUID        = 32
	sbLogStart    = 48
	sbGroupBlocks = 84
	sbGroups      = 88
	sbLogBlocks   = 96
	sbSectorSize  = 102
	sbLabel       = 108
	sbGroupLog    = 124
	sbChecksum    = 224
)

const (
	magicSuper  = 0x58465342 // XFSB
	magicLog    = 0xfeedbabe
	inodeBytes  = 512
	magicInodes = 0x494e // IN, in the upper half
)

// object is where an on-disk object keeps the file system's UUID and its own
// checksum.
type object struct{ uuid, sum int }

// objects are the kinds that an empty file system has, by magic number.
var objects = map[uint32]object{
	0x58414746: {64, 216},  // XAGF, free space of a group
	0x58414749: {296, 312}, // XAGI, inodes of a group
	0x5841464c: {8, 32},    // XAFL, free list of a group
	0x41423342: {32, 52},   // AB3B, free space by block
	0x41423343: {32, 52},   // AB3C, free space by size
	0x49414233: {32, 52},   // IAB3, inodes
	0x46494233: {32, 52},   // FIB3, free inodes
	0x52334643: {32, 52},   // R3FC, reference counts
}

var inode = object{160, 100}

// patch is what changes from the template to a file system.
type patch struct {
	old, uuid   [16]byte
	label       string
	groupBlocks uint32
}

// apply changes one block of the template in place. Every object carries the
// UUID, or two Wherry disks in one machine could not be mounted together.
func (p *patch) apply(block []byte) error {
	magic := big.Uint32(block)
	if o, ok := objects[magic]; ok {
		return p.setUUID(block, o)
	}
	switch {
	case magic == magicSuper:
		return p.super(block)
	case magic == magicLog:
		return p.log(block)
	case magic>>16 == magicInodes:
		for at := 0; at < len(block); at += inodeBytes {
			if err := p.setUUID(block[at:at+inodeBytes], inode); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("unknown object %#x", magic)
}

func (p *patch) super(b []byte) error {
	if !sumRight(b, sbChecksum) {
		return errors.New("wrong checksum")
	}
	if big.Uint32(b[sbGroups:]) != 1 {
		return errors.New("more than one allocation group")
	}
	copy(b[sbUUID:], p.uuid[:])
	copy(b[sbLabel:sbLabel+MaxLabelBytes], make([]byte, MaxLabelBytes))
	copy(b[sbLabel:], p.label)
	big.PutUint32(b[sbGroupBlocks:], p.groupBlocks)
	b[sbGroupLog] = byte(bits.Len32(p.groupBlocks - 1)) // rounded up
	setSum(b, sbChecksum)
	return nil
}

// log changes the first record of the log, an unmount record without a checksum.
func (p *patch) log(b []byte) error {
	const uuid = 304
	if [16]byte(b[uuid:uuid+16]) != p.old {
		return errors.New("unexpected UUID")
	}
	copy(b[uuid:], p.uuid[:])
	return nil
}

func (p *patch) setUUID(b []byte, o object) error {
	if !sumRight(b, o.sum) {
		return errors.New("wrong checksum")
	}
	if [16]byte(b[o.uuid:o.uuid+16]) != p.old {
		return errors.New("unexpected UUID")
	}
	copy(b[o.uuid:], p.uuid[:])
	setSum(b, o.sum)
	return nil
}
