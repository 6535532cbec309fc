// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package delta is the format that turns one OS file into another, and the
// program that applies it. Decision 0015 has the measurements behind it.
//
// An OS file is mostly compressed, and compressed bytes have nothing in common
// once their contents differ a little. So a delta speaks of contents. Applying
// one has three parts, and the recipe lists the steps of each:
//
//  1. Frames of the old file are unpacked into the plain file, a scratch file on disk.
//  2. Objects (programs, modules, tables of the squashfs) are made from their old
//     counterparts there, by bsdiff's three streams: control says which old
//     bytes go where, difference what is added to each, extra what is new. What an old
//     byte becomes is predicted first (see predict.go), so that addresses that
//     moved with the code cost nothing.
//  3. The new file is put together from ranges of the old file, ranges of the plain
//     file, and ranges packed again by the same compressor that made the new
//     file. The publisher has tried each of these; what does not come out
//     equal is in the delta as it is. A frame that no machine has the memory to pack again (the kernel)
//     is written by its compressor's choices, which the delta tells (package choices).
//
// The bytes: magic, header, and the streams recipe, control, difference
// and extra, each in LZMA, and choices, which are packed already. All numbers are varints.
//
// Apply trusts nothing in a delta: every length has a bound, from Limits or from
// the header that was checked against them; there is no way to make it
// panic, take more memory than a few times the dictionary, or write beyond its
// limits. That the result is right is proved by its hash, which the caller compares
// with a signed one as well. Apply reads the old file and the delta, and writes
// the scratch file and the new file; when it is cut, both are worthless and are made again.
package delta

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// magic carries the format's number.
const magic = "wherry delta 2\n"

// What can be wrong. Errors wrap one of these.
var (
	ErrFormat = errors.New("it is not a delta that this version knows, or it is damaged")
	ErrLimit  = errors.New("it needs more than it may have")
	ErrOld    = errors.New("it is made for another old file")
	ErrResult = errors.New("the result is not the new file")
	ErrCodec  = errors.New("it needs another compressor")
)

// Limits bound what applying may take.
type Limits struct {
	FileBytes    int64 // of the old and of the new file
	ScratchBytes int64 // of the plain file
}

// DefaultLimits hold OS files of some 100 MB.
func DefaultLimits() Limits { return Limits{FileBytes: 512 << 20, ScratchBytes: 2 << 30} }

// Bounds of the format itself.
const (
	maxHeader   = 1 << 10
	maxCodec    = 64
	maxRecipe   = 4 << 20
	maxFrame    = 16 << 20  // content or packed bytes of one frame
	maxLarge    = 256 << 20 // the same of a frame that is written by choices
	maxObject   = 1 << 30
	MaxControls = 1 << 19 // entries for one object
	maxList     = 1 << 16 // pieces, objects, operations
	MaxRanges   = 1 << 12 // of one packed frame
	maxRules    = 64
	dictionary  = 8 << 20
)

// streams of a delta, in their order.
const (
	streamRecipe = iota
	streamControl
	streamDifference
	streamExtra
	streamChoices
	streamCount
)

// File is what the header says of the old or the new file.
type File struct {
	Bytes  int64
	SHA256 [sha256.Size]byte
}

// stream is the place of a stream in the delta.
type stream struct{ packed, plain int64 }

// Header is the beginning of a delta.
type Header struct {
	Old, New File
	// Scratch is the size of the plain file.
	Scratch int64
	// Codec names the compressor that packs frames again.
	Codec string

	streams [streamCount]stream
	size    int64 // of the header itself
}

// ReadHeader reads and checks the header of a delta of that size.
func ReadHeader(delta io.ReaderAt, size int64, l Limits) (Header, error) {
	b := make([]byte, min(size, maxHeader))
	if _, err := io.ReadFull(io.NewSectionReader(delta, 0, size), b); err != nil {
		return Header{}, fmt.Errorf("read the delta: %w", err)
	}
	h, err := parseHeader(b)
	if err != nil {
		return Header{}, fmt.Errorf("read the delta's header: %w", err)
	}
	if err := h.check(size, l); err != nil {
		return Header{}, fmt.Errorf("read the delta's header: %w", err)
	}
	return h, nil
}

func parseHeader(b []byte) (h Header, err error) {
	w := &wire{b: b}
	if string(w.bytes(len(magic))) != magic {
		return h, ErrFormat
	}
	for _, f := range []*File{&h.Old, &h.New} {
		f.Bytes = w.number(maxObject)
		copy(f.SHA256[:], w.bytes(sha256.Size))
	}
	h.Scratch = w.number(1 << 40)
	h.Codec = string(w.bytes(int(w.number(maxCodec))))
	for i := range h.streams {
		h.streams[i] = stream{packed: w.number(maxObject), plain: w.number(2 * maxObject)}
	}
	h.size = int64(w.at)
	return h, w.err
}

func (h Header) check(size int64, l Limits) error {
	for _, s := range h.streams {
		size -= s.packed
	}
	switch {
	case size != h.size:
		return fmt.Errorf("%w: its length is not that of its parts", ErrFormat)
	case h.Old.Bytes > l.FileBytes || h.New.Bytes > l.FileBytes:
		return fmt.Errorf("%w: files of %d and %d bytes", ErrLimit, h.Old.Bytes, h.New.Bytes)
	case h.Scratch > l.ScratchBytes:
		return fmt.Errorf("%w: %d bytes of disk", ErrLimit, h.Scratch)
	case h.streams[streamRecipe].plain > maxRecipe:
		return fmt.Errorf("%w: a recipe of %d bytes", ErrLimit, h.streams[streamRecipe].plain)
	}
	return nil
}

func (h Header) append(b []byte) []byte {
	b = append(b, magic...)
	for _, f := range []File{h.Old, h.New} {
		b = binary.AppendUvarint(b, uint64(f.Bytes))
		b = append(b, f.SHA256[:]...)
	}
	b = binary.AppendUvarint(b, uint64(h.Scratch))
	b = binary.AppendUvarint(b, uint64(len(h.Codec)))
	b = append(b, h.Codec...)
	for _, s := range h.streams {
		b = binary.AppendUvarint(b, uint64(s.packed))
		b = binary.AppendUvarint(b, uint64(s.plain))
	}
	return b
}

// wire reads varints from bytes. After an error everything reads as zero.
type wire struct {
	b   []byte
	at  int
	err error
}

func (w *wire) fail() {
	if w.err == nil {
		w.err = ErrFormat
	}
}

// number reads a number that is at most limit.
func (w *wire) number(limit int64) int64 {
	v, n := binary.Uvarint(w.b[w.at:])
	if w.err != nil || n <= 0 || v > uint64(limit) {
		w.fail()
		return 0
	}
	w.at += n
	return int64(v)
}

// signed reads a number of either sign, at most limit from zero.
func (w *wire) signed(limit int64) int64 {
	v, n := binary.Varint(w.b[w.at:])
	if w.err != nil || n <= 0 || v > limit || v < -limit {
		w.fail()
		return 0
	}
	w.at += n
	return v
}

func (w *wire) bytes(n int) []byte {
	if w.err != nil || n > len(w.b)-w.at {
		w.fail()
		return nil
	}
	w.at += n
	return w.b[w.at-n : w.at]
}
