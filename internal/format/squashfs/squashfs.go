// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package squashfs reads how a squashfs image (version 4, zstd) is laid out:
// which bytes are compressed blocks, and which blocks hold which file.
//
// It is for those who compare images, not for mounting: it reads everything at once
// and keeps names of plain files only. Images are not trusted: every number is
// checked before it is used, and a damaged image is an error. It reads memory only.
package squashfs

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

var little = binary.LittleEndian

const (
	magic        = 0x73717368
	superBytes   = 96
	zstdID       = 6
	metadataSize = 8 << 10
	maxBlock     = 1 << 20
	maxTable     = 64 << 20 // of inodes, and of directories
	maxFiles     = 1 << 18
	maxDepth     = 64
	none         = 1<<32 - 1
)

// ErrImage says that an image can't be read.
var ErrImage = errors.New("it is no squashfs with zstd, or it is damaged")

// Block is a range of the image.
type Block struct {
	Offset, Bytes int64
	Packed        bool // it is a zstd frame; else it is stored as it is
	Content       []byte
}

// Extent is a part of a block's content.
type Extent struct{ Block, Offset, Bytes int }

// File is a plain file, or one of the image's tables: a list of extents.
type File struct {
	Path    string
	Extents []Extent
}

// Image is a parsed image. Blocks are in no order; what is between them is
// headers and numbers.
type Image struct {
	Blocks []Block
	Files  []File
	Tables []File

	data      []byte
	decoder   *zstd.Decoder
	blockSize int64
	byOffset  map[int64]int
	fragments []int // their blocks
	inodes    table
	dirs      table
	err       error
}

// table is a run of metadata blocks. Places in it are told by where the block
// lies in the run, and an offset in its content.
type table struct {
	content []byte
	starts  map[int64]int // block's place: its content's
}

// Parse reads an image. The bytes must stay as they are.
func Parse(data []byte) (*Image, error) {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBlock))
	if err != nil {
		return nil, err
	}
	defer decoder.Close()
	i := &Image{data: data, decoder: decoder, byOffset: map[int64]int{}}
	if err := i.parse(); err != nil {
		return nil, fmt.Errorf("read squashfs: %w", err)
	}
	return i, nil
}

func (i *Image) parse() error {
	d := i.data
	if len(d) < superBytes || little.Uint32(d) != magic || little.Uint16(d[28:]) != 4 || little.Uint16(d[20:]) != zstdID {
		return ErrImage
	}
	i.blockSize = int64(little.Uint32(d[12:]))
	if used := little.Uint64(d[40:]); i.blockSize < 4<<10 || i.blockSize > maxBlock || used > uint64(len(d)) {
		return ErrImage
	}
	at := func(field int) int64 { return int64(min(little.Uint64(d[field:]), uint64(len(d)))) }
	inodes, dirs, fragments, exports, ids := at(64), at(72), at(80), at(88), at(48)
	first, err := i.parseFragments(fragments, int64(little.Uint32(d[16:])))
	if err != nil {
		return err
	}
	if first < 0 { // no fragments: the next table is that of exports, or of identities
		if exports == int64(len(d)) {
			exports = ids
		}
		if first, err = i.word(exports); err != nil {
			return err
		}
	}
	if i.inodes, err = i.metadata("inodes", inodes, dirs); err != nil {
		return err
	}
	if i.dirs, err = i.metadata("directories", dirs, first); err != nil {
		return err
	}
	root := little.Uint64(d[32:])
	if err := i.directory("", int64(root>>16), int(root&0xffff), 0); err != nil {
		return err
	}
	return nil
}

// word reads 8 bytes.
func (i *Image) word(at int64) (int64, error) {
	if at < 0 || at+8 > int64(len(i.data)) || little.Uint64(i.data[at:]) > uint64(len(i.data)) {
		return 0, ErrImage
	}
	return int64(little.Uint64(i.data[at:])), nil
}

// block returns the number of a block, which is read when it is new.
func (i *Image) block(offset, bytes int64, packed bool, limit int64) (int, error) {
	if n, ok := i.byOffset[offset]; ok && i.Blocks[n].Bytes == bytes {
		return n, nil
	}
	if offset < 0 || bytes <= 0 || offset > int64(len(i.data))-bytes || bytes > 2*maxBlock {
		return 0, ErrImage
	}
	b := Block{Offset: offset, Bytes: bytes, Packed: packed, Content: i.data[offset : offset+bytes]}
	if packed {
		var err error
		if b.Content, err = i.decoder.DecodeAll(b.Content, nil); err != nil {
			return 0, fmt.Errorf("%w: block at %d: %w", ErrImage, offset, err)
		}
	}
	if int64(len(b.Content)) > limit {
		return 0, ErrImage
	}
	i.byOffset[offset] = len(i.Blocks)
	i.Blocks = append(i.Blocks, b)
	return len(i.Blocks) - 1, nil
}

// metadataBlock reads one metadata block and tells where the next one begins.
func (i *Image) metadataBlock(at int64) (n int, next int64, err error) {
	if at < 0 || at+2 > int64(len(i.data)) {
		return 0, 0, ErrImage
	}
	h := little.Uint16(i.data[at:])
	size := int64(h & 0x7fff)
	n, err = i.block(at+2, size, h&0x8000 == 0, metadataSize)
	return n, at + 2 + size, err
}

func (i *Image) metadata(name string, from, to int64) (table, error) {
	t := table{starts: map[int64]int{}}
	f := File{Path: name}
	for at := from; at < to; {
		n, next, err := i.metadataBlock(at)
		if err != nil || next > to || len(t.content) > maxTable {
			return t, errors.Join(ErrImage, err)
		}
		t.starts[at-from] = len(t.content)
		t.content = append(t.content, i.Blocks[n].Content...)
		f.Extents = append(f.Extents, Extent{n, 0, len(i.Blocks[n].Content)})
		at = next
	}
	i.Tables = append(i.Tables, f)
	return t, nil
}

// at returns what a table holds from a place on.
func (t table) at(block int64, offset int) ([]byte, error) {
	start, ok := t.starts[block]
	if !ok || offset < 0 || start+offset > len(t.content) {
		return nil, ErrImage
	}
	return t.content[start+offset:], nil
}

// parseFragments reads the blocks that hold the ends of files. It returns where
// their table's first block lies; -1: there is none.
func (i *Image) parseFragments(index, count int64) (int64, error) {
	if count == 0 {
		return -1, nil
	}
	if count > maxFiles {
		return 0, ErrImage
	}
	f := File{Path: "fragments"}
	var entries []byte
	var first int64
	for k := range (count*16 + metadataSize - 1) / metadataSize {
		at, err := i.word(index + 8*k)
		if err != nil {
			return 0, err
		}
		n, _, err := i.metadataBlock(at)
		if err != nil {
			return 0, err
		}
		if k == 0 {
			first = at
		}
		entries = append(entries, i.Blocks[n].Content...)
		f.Extents = append(f.Extents, Extent{n, 0, len(i.Blocks[n].Content)})
	}
	if int64(len(entries)) < 16*count {
		return 0, ErrImage
	}
	i.Tables = append(i.Tables, f)
	for k := range count {
		e := entries[16*k:]
		size := little.Uint32(e[8:])
		n, err := i.block(int64(min(little.Uint64(e), 1<<62)), int64(size&^(1<<24)), size&(1<<24) == 0, i.blockSize)
		if err != nil {
			return 0, err
		}
		i.fragments = append(i.fragments, n)
	}
	return first, nil
}
