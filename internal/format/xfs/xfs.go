// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package xfs makes an empty XFS file system without mkfs: from a template that
// mkfs.xfs made once, given a UUID, a label and the geometry of the disk at
// hand.
//
// What Build returns is a small file system of MinBytes with one allocation
// group, whose superblock already holds the group size that suits the final
// size. It is mounted and then grown by the kernel; growing it with the
// template's own group size would need a group for every 80 MB.
//
// Nothing here does I/O. The order in which the result must be written is told
// at Image.
package xfs

import (
	"bytes"
	"compress/gzip"
	_ "embed" // the template
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

//go:generate sh -c "cd ../../../tools && go run ./xfstemplate ../internal/format/xfs/template.gz"

//go:embed template.gz
var template []byte

const (
	// BlockBytes is the size of a block and of a sector.
	BlockBytes = 4096
	// MinBytes is the size of the file system before it is grown, and so the
	// smallest device that can hold one.
	MinBytes = templateBlocks * BlockBytes
	// MaxLabelBytes is how long a label may be.
	MaxLabelBytes = 12

	templateBlocks    = 20480
	maxTemplateBlocks = 64
	maxGroupBlocks    = 1<<28 - 1 // just below 1 TiB
)

// Image is a file system as writes to a device. A device is formatted in this
// order, so that a power cut leaves either no file system or a whole one: zero
// block 0; zero the log; write Blocks; make it durable; write Super at offset
// 0; make it durable.
type Image struct {
	LogOffset, LogBytes int64
	Blocks              []Block
	Super               [BlockBytes]byte
}

// Block is one block at an offset in bytes.
type Block struct {
	Offset int64
	Data   []byte
}

// Build makes the image for a device of that many bytes.
func Build(uuid [16]byte, label string, deviceBytes int64) (*Image, error) {
	if deviceBytes < MinBytes {
		return nil, fmt.Errorf("make XFS: %d bytes are too few, it takes at least %d", deviceBytes, MinBytes)
	}
	if len(label) > MaxLabelBytes {
		return nil, fmt.Errorf("make XFS: label %q is longer than %d bytes", label, MaxLabelBytes)
	}
	blocks, err := unpack(template)
	if err != nil {
		return nil, fmt.Errorf("make XFS: read template: %w", err)
	}
	if len(blocks) == 0 || blocks[0].Offset != 0 {
		return nil, errors.New("make XFS: the template has no superblock")
	}
	p := patch{uuid: uuid, label: label, groupBlocks: groupBlocks(deviceBytes)}
	copy(p.old[:], blocks[0].Data[sbUUID:])
	for _, b := range blocks {
		if err := p.apply(b.Data); err != nil {
			return nil, fmt.Errorf("make XFS: template's block at %d: %w", b.Offset, err)
		}
	}
	super := blocks[0].Data
	image := &Image{
		LogOffset: int64(big.Uint64(super[sbLogStart:])) * BlockBytes,
		LogBytes:  int64(big.Uint32(super[sbLogBlocks:])) * BlockBytes,
		Blocks:    blocks[1:],
	}
	copy(image.Super[:], super)
	return image, nil
}

// groupBlocks is mkfs.xfs's rule for a single disk: four groups, none larger
// than 1 TiB, none smaller than the template's.
func groupBlocks(deviceBytes int64) uint32 {
	n := (deviceBytes/BlockBytes + 3) / 4
	return uint32(min(max(n, templateBlocks), maxGroupBlocks))
}

func unpack(packed []byte) ([]Block, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	var count uint32
	if err := binary.Read(r, binary.LittleEndian, &count); err != nil {
		return nil, err
	}
	if count > maxTemplateBlocks {
		return nil, fmt.Errorf("%d blocks are too many", count)
	}
	blocks := make([]Block, count)
	for i := range blocks {
		var number uint64
		if err := binary.Read(r, binary.LittleEndian, &number); err != nil {
			return nil, err
		}
		if number >= templateBlocks {
			return nil, fmt.Errorf("block %d is out of bounds", number)
		}
		blocks[i] = Block{Offset: int64(number) * BlockBytes, Data: make([]byte, BlockBytes)}
		if _, err := io.ReadFull(r, blocks[i].Data); err != nil {
			return nil, err
		}
	}
	return blocks, nil
}

// Super is what a superblock tells.
type Super struct {
	UUID   [16]byte
	Label  string
	Blocks uint64 // of BlockSize
	// BlockSize in bytes.
	BlockSize uint32
	// Intact is false when the superblock's checksum is wrong.
	Intact bool
}

// ParseSuper reads the first block of a device; false when it is not XFS.
func ParseSuper(block []byte) (Super, bool) {
	if len(block) < BlockBytes || big.Uint32(block) != magicSuper {
		return Super{}, false
	}
	s := Super{BlockSize: big.Uint32(block[sbBlockSize:]), Blocks: big.Uint64(block[sbDataBlocks:])}
	copy(s.UUID[:], block[sbUUID:])
	s.Label = string(bytes.TrimRight(block[sbLabel:sbLabel+MaxLabelBytes], "\x00"))
	// The checksum covers one sector, whose size the superblock tells.
	sector := int(big.Uint16(block[sbSectorSize:]))
	s.Intact = sector >= 512 && sector <= BlockBytes && sumRight(block[:sector], sbChecksum)
	return s, true
}

var (
	big        = binary.BigEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// checksum is over the whole object with zeros in the checksum's own place.
func checksum(b []byte, at int) uint32 {
	sum := crc32.Update(0, castagnoli, b[:at])
	sum = crc32.Update(sum, castagnoli, make([]byte, 4))
	return crc32.Update(sum, castagnoli, b[at+4:])
}

func sumRight(b []byte, at int) bool {
	return binary.LittleEndian.Uint32(b[at:]) == checksum(b, at)
}

func setSum(b []byte, at int) { binary.LittleEndian.PutUint32(b[at:], checksum(b, at)) }
