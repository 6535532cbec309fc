// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package gnutar writes a tar archive of one sparse file in GNU tar's old format,
// which is what Google's cloud imports disks from. Go's archive/tar reads such
// archives but does not write them.
//
// Of the file only the ranges that are given are in the archive; the rest is
// zeros when it is unpacked. Equal input gives equal bytes.
package gnutar

import (
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	blockBytes = 512
	// maxBytes is what eleven octal digits can say.
	maxBytes = 1<<33 - 1

	inHeader    = 4  // ranges that the header itself has room for
	inExtension = 21 // and each block behind it
)

// Range is a piece of the file that is not zeros: whole blocks of 512 bytes,
// since GNU tar begins each with a block where others do not.
type Range struct{ Offset, Bytes int64 }

// File is the sparse file.
type File struct {
	Name  string
	Bytes int64
	Time  time.Time
	Data  []Range // in order, not overlapping
}

// Write writes the archive. The contents of the ranges are read from r.
func Write(w io.Writer, f File, r io.ReaderAt) error {
	packed, err := f.check()
	if err != nil {
		return fmt.Errorf("write a tar archive: %w", err)
	}
	if _, err := w.Write(f.headers(packed)); err != nil {
		return fmt.Errorf("write a tar archive: %w", err)
	}
	for _, d := range f.Data {
		if n, err := io.Copy(w, io.NewSectionReader(r, d.Offset, d.Bytes)); err != nil || n != d.Bytes {
			return fmt.Errorf("write a tar archive: %w", errors.Join(err, fmt.Errorf("%d of %d bytes at %d", n, d.Bytes, d.Offset)))
		}
	}
	// Two blocks end the archive.
	if _, err := w.Write(make([]byte, 2*blockBytes)); err != nil {
		return fmt.Errorf("write a tar archive: %w", err)
	}
	return nil
}

// check returns how many bytes the ranges have.
func (f File) check() (packed int64, err error) {
	if f.Name == "" || len(f.Name) > 99 {
		return 0, fmt.Errorf("the name %.200q", f.Name)
	}
	if f.Bytes < 0 || f.Bytes > maxBytes || f.Time.Unix() < 0 || f.Time.Unix() > maxBytes {
		return 0, fmt.Errorf("%d bytes of %v", f.Bytes, f.Time)
	}
	var end int64
	for _, d := range f.Data {
		if d.Offset < end || d.Bytes <= 0 || d.Bytes > f.Bytes-d.Offset || d.Offset%blockBytes != 0 || d.Bytes%blockBytes != 0 {
			return 0, fmt.Errorf("%d bytes at %d", d.Bytes, d.Offset)
		}
		end = d.Offset + d.Bytes
		packed += d.Bytes
	}
	return packed, nil
}

// headers are the file's header and as many blocks as the ranges need.
func (f File) headers(packed int64) []byte {
	ranges := f.Data
	if len(ranges) == 0 || ranges[len(ranges)-1].Offset+ranges[len(ranges)-1].Bytes < f.Bytes {
		ranges = append(ranges[:len(ranges):len(ranges)], Range{Offset: f.Bytes}) // how long it is
	}
	b := make([]byte, blockBytes)
	copy(b, f.Name)
	copy(b[100:], "0000644\x00")
	copy(b[108:], "0000000\x00")
	copy(b[116:], "0000000\x00")
	octal(b[124:], packed)
	octal(b[136:], f.Time.Unix())
	b[156] = 'S'
	copy(b[257:], "ustar  \x00")
	octal(b[483:], f.Bytes)
	ranges = put(b[386:], ranges, inHeader)
	b[482] = more(ranges)
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	for len(ranges) > 0 {
		x := make([]byte, blockBytes)
		ranges = put(x, ranges, inExtension)
		x[504] = more(ranges)
		b = append(b, x...)
	}
	return b
}

// put writes as many ranges as there is room for and returns the others.
func put(b []byte, ranges []Range, room int) []Range {
	n := min(room, len(ranges))
	for i, r := range ranges[:n] {
		octal(b[i*24:], r.Offset)
		octal(b[i*24+12:], r.Bytes)
	}
	return ranges[n:]
}

func more(ranges []Range) byte {
	if len(ranges) > 0 {
		return 1
	}
	return 0
}

func octal(b []byte, n int64) { copy(b, fmt.Sprintf("%011o\x00", n)) }
