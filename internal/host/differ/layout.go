// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package differ

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/klauspost/compress/zstd"

	"wherry.example/wherry/internal/format/choices"
	"wherry.example/wherry/internal/format/delta"
	"wherry.example/wherry/internal/format/pe"
	"wherry.example/wherry/internal/format/squashfs"
)

// File is an OS file taken apart.
type File struct {
	data    []byte
	sum     [sha256.Size]byte
	pieces  []piece // by their offset; what is between them are the gaps
	objects []object
	byName  map[string]int
	owners  [][]owner // of each piece's content, by offset in it
}

// piece is a range of the file that stays together: a compressed frame, or a
// part that is stored as it is.
type piece struct {
	delta.Range
	packed  bool
	from    int // which parameters may have packed it: an index of packers
	content []byte
	parse   *choices.Parse // of one from packedKernel: how it was packed
}

// object is content with a name, which an older file has under the same name.
type object struct {
	name    string
	extents []extent
}

type extent struct{ piece, offset, bytes int }

// owner says which part of an object a part of a piece's content is.
type owner struct {
	offset, bytes int // in the piece
	object, at    int // and in the object
}

// Names of objects that are no files.
const (
	nameKernel    = "section .linux"
	namePayload   = "kernel's payload"
	nameKernelEnd = "kernel behind its payload"
	nameEarly     = "early"
	nameGaps      = "gaps"
)

const (
	zstdMagic = "\x28\xb5\x2f\xfd"
	cpioMagic = "070701"
	maxEarly  = 64 << 20
	// minShared is the size from which files of the root are looked for in the early part.
	minShared = 4 << 10
)

// Open takes an OS file apart. The bytes must stay as they are. What it does not know
// of the file stays in one piece.
func Open(data []byte) (*File, error) {
	f := &File{data: data, sum: sha256.Sum256(data), byName: map[string]int{}}
	image, err := pe.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("take the OS file apart: %w", err)
	}
	for _, s := range image.Sections {
		at := delta.Range{Offset: int64(s.Offset), Bytes: int64(min(s.Size, s.Stored))}
		switch s.Name {
		case ".linux":
			f.openKernel(at)
		case ".initrd":
			err = errors.Join(err, f.openInitrd(at))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("take the OS file apart: %w", err)
	}
	f.finish()
	return f, nil
}

func (f *File) addPiece(p piece) int {
	f.pieces = append(f.pieces, p)
	return len(f.pieces) - 1
}

func (f *File) addObject(o object) {
	if _, twice := f.byName[o.name]; twice || len(o.extents) == 0 {
		return
	}
	f.byName[o.name] = len(f.objects)
	f.objects = append(f.objects, o)
}

// whole makes an object of one piece.
func (f *File) whole(name string, p int) {
	f.addObject(object{name, []extent{{p, 0, len(f.pieces[p].content)}}})
}

// openInitrd goes through the archives of an initramfs: one in a zstd frame,
// and plain ones, in one of which is the root.
func (f *File) openInitrd(at delta.Range) error {
	for end := at.Offset + at.Bytes; at.Offset < end; {
		rest := f.data[at.Offset:end]
		switch {
		case rest[0] == 0:
			at.Offset++
		case bytes.HasPrefix(rest, []byte(zstdMagic)):
			n, err := f.openEarly(rest, at.Offset)
			if err != nil {
				return err
			}
			at.Offset += n
		case bytes.HasPrefix(rest, []byte(cpioMagic)):
			n, err := f.openEntry(rest, at.Offset)
			if err != nil {
				return err
			}
			at.Offset += n
		default:
			return nil // nothing that is known: it stays a gap
		}
	}
	return nil
}

func (f *File) openEarly(b []byte, offset int64) (int64, error) {
	n := frameLength(b)
	if n < 0 {
		return 0, errors.New("the first archive of the initramfs is cut off")
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxEarly))
	if err != nil {
		return 0, err
	}
	defer d.Close()
	content, err := d.DecodeAll(b[:n], nil)
	if err != nil {
		return 0, fmt.Errorf("unpack the first archive of the initramfs: %w", err)
	}
	f.addPiece(piece{Range: delta.Range{Offset: offset, Bytes: int64(n)}, packed: true, from: packedEarly, content: content})
	return int64(n), nil
}

// frameLength is the length of the zstd frame that b begins with, -1: b ends before it.
func frameLength(b []byte) int {
	if len(b) < 5 {
		return -1
	}
	flags := b[4]
	at := 5 + []int{0, 1, 2, 4}[flags&3] + []int{0, 2, 4, 8}[flags>>6]
	if single := flags>>5&1 == 1; !single {
		at++
	} else if flags>>6 == 0 {
		at++
	}
	for at+3 <= len(b) {
		h := int(b[at]) | int(b[at+1])<<8 | int(b[at+2])<<16
		size := h >> 3
		if h>>1&3 == 1 {
			size = 1
		}
		if at += 3 + size; h&1 == 0 {
			continue
		}
		if at += 4 * int(flags>>2&1); at <= len(b) {
			return at
		}
		return -1
	}
	return -1
}

// openEntry passes over an entry of a cpio archive, and takes the root apart.
func (f *File) openEntry(b []byte, offset int64) (int64, error) {
	const header = 110
	bad := errors.New("the initramfs has a damaged archive")
	if len(b) < header {
		return 0, bad
	}
	size, err1 := strconv.ParseUint(string(b[54:62]), 16, 32)
	name, err2 := strconv.ParseUint(string(b[94:102]), 16, 16)
	at := (header + int64(name) + 3) &^ 3
	end := at + (int64(size)+3)&^3
	if err1 != nil || err2 != nil || name == 0 || at+int64(size) > int64(len(b)) {
		return 0, bad
	}
	if string(b[header:header+name-1]) == "root.squashfs" {
		if err := f.openRoot(b[at:at+int64(size)], offset+at); err != nil {
			return 0, err
		}
	}
	return min(end, int64(len(b))), nil
}

func (f *File) openRoot(b []byte, offset int64) error {
	image, err := squashfs.Parse(b)
	if err != nil {
		return err
	}
	first := len(f.pieces)
	for _, p := range image.Blocks {
		f.addPiece(piece{Range: delta.Range{Offset: offset + p.Offset, Bytes: p.Bytes}, packed: p.Packed, from: packedRoot, content: p.Content})
	}
	add := func(kind string, files []squashfs.File) {
		for _, file := range files {
			o := object{name: kind + file.Path}
			for _, e := range file.Extents {
				o.extents = append(o.extents, extent{first + e.Block, e.Offset, e.Bytes})
			}
			f.addObject(o)
		}
	}
	add("/", image.Files)
	add("table ", image.Tables)
	return nil
}

// finish puts the pieces in order, and finds an owner for all that is in them.
func (f *File) finish() {
	order := make([]int, len(f.pieces))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(f.pieces[a].Offset, f.pieces[b].Offset) })
	sorted, place := make([]piece, len(order)), make([]int, len(order))
	for to, from := range order {
		sorted[to], place[from] = f.pieces[from], to
	}
	f.pieces, f.owners = sorted, make([][]owner, len(sorted))
	for i, o := range f.objects {
		at := 0
		for k := range o.extents {
			e := &o.extents[k]
			e.piece = place[e.piece]
			f.owners[e.piece] = append(f.owners[e.piece], owner{e.offset, e.bytes, i, at})
			at += e.bytes
		}
	}
	for i, p := range f.pieces {
		if p.from == packedEarly {
			f.shareEarly(i)
		}
		f.adopt(i)
	}
}

// shareEarly finds files of the root that are in the early part as well.
func (f *File) shareEarly(p int) {
	for i, o := range f.objects {
		content := f.content(o)
		if len(content) < minShared {
			continue
		}
		if at := bytes.Index(f.pieces[p].content, content); at >= 0 {
			f.owners[p] = append(f.owners[p], owner{at, len(content), i, 0})
		}
	}
}

// adopt gives what nobody owns in a piece to an object of its own, and drops
// second owners: equal files share their blocks.
func (f *File) adopt(p int) {
	slices.SortStableFunc(f.owners[p], func(a, b owner) int { return cmp.Compare(a.offset, b.offset) })
	rest := object{name: fmt.Sprintf("piece %d", p)}
	if f.pieces[p].from == packedEarly {
		rest.name = nameEarly
	}
	var kept []owner
	at, adopted := 0, 0
	take := func(to int) {
		if to > at {
			kept = append(kept, owner{at, to - at, len(f.objects), adopted})
			rest.extents = append(rest.extents, extent{p, at, to - at})
			adopted += to - at
		}
	}
	for _, o := range f.owners[p] {
		if o.offset < at {
			continue
		}
		take(o.offset)
		kept = append(kept, o)
		at = o.offset + o.bytes
	}
	take(len(f.pieces[p].content))
	f.owners[p] = kept
	f.addObject(rest)
}

func (f *File) content(o object) []byte {
	if len(o.extents) == 1 {
		e := o.extents[0]
		return f.pieces[e.piece].content[e.offset : e.offset+e.bytes]
	}
	var out []byte
	for _, e := range o.extents {
		out = append(out, f.pieces[e.piece].content[e.offset:e.offset+e.bytes]...)
	}
	return out
}

// gaps are the ranges that are in no piece.
func (f *File) gaps() (all []delta.Range) {
	var at int64
	for _, p := range f.pieces {
		if p.Offset > at {
			all = append(all, delta.Range{Offset: at, Bytes: p.Offset - at})
		}
		at = max(at, p.Offset+p.Bytes)
	}
	if end := int64(len(f.data)); end > at {
		all = append(all, delta.Range{Offset: at, Bytes: end - at})
	}
	return all
}

func (f *File) gapContent() (out []byte) {
	for _, g := range f.gaps() {
		out = append(out, f.data[g.Offset:g.Offset+g.Bytes]...)
	}
	return out
}
