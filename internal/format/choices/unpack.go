// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package choices

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"wherry.example/wherry/internal/format/zstdframe"
)

// File is where content and records are written, and read again.
type File interface {
	io.ReaderAt
	io.WriterAt
}

// Room is where Unpack writes: so much content, and at most so many records.
type Room struct {
	File
	Offset  int64 // of the content; the records follow it
	Bytes   int64
	Records int64
}

// Unpack writes a frame's content to a file, and how it was packed. Frames have
// windows as large as their content: what was long ago is read from the file again.
func Unpack(ctx context.Context, frame io.Reader, to Room) (*Parse, error) {
	r, err := zstdframe.NewReader(frame)
	if err != nil {
		return nil, err
	}
	u := &unpacker{Room: to, recorder: newRecorder(to, to.Offset+to.Bytes, to.Records)}
	u.pages = newPages(section{to.File, to.Offset}, to.Bytes, unpackPages)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		b, literals, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = u.block(b, literals)
		}
		if err != nil {
			return nil, fmt.Errorf("unpack a frame, at byte %d of its content: %w", u.end(), err)
		}
	}
	if u.end() != to.Bytes {
		return nil, fmt.Errorf("%w: a frame has %d bytes, not %d", errLimit, u.end(), to.Bytes)
	}
	return u.recorder.close()
}

// section is a file from an offset on.
type section struct {
	io.ReaderAt
	offset int64
}

func (s section) ReadAt(b []byte, at int64) (int, error) { return s.ReaderAt.ReadAt(b, s.offset+at) }

const (
	unpackPages = 256
	// recentBytes is how much of the content is in memory while it is made; more than a page and a block.
	recentBytes = 2 << 20
)

type unpacker struct {
	Room
	recorder *recorder
	pages    *pages
	recent   []byte // the end of the content
	base     int64  // where recent begins
}

func (u *unpacker) end() int64 { return u.base + int64(len(u.recent)) }

// block makes a block's content, and writes it.
func (u *unpacker) block(b *zstdframe.Block, literals []byte) error {
	if len(u.recent) > 2*recentBytes {
		drop := len(u.recent) - recentBytes
		u.base += int64(drop)
		u.recent = append(u.recent[:0], u.recent[drop:]...)
	}
	begin := len(u.recent)
	if u.end()+int64(b.Bytes) > u.Bytes {
		return errLimit
	}
	if b.Kind == zstdframe.RLE {
		literals = bytes.Repeat(literals, b.Bytes)
	}
	for _, s := range b.Sequences {
		u.recent = append(u.recent, literals[:s.Literals]...)
		literals = literals[s.Literals:]
		if err := u.copy(int64(s.Distance), int(s.Match)); err != nil {
			return err
		}
	}
	u.recent = append(u.recent, literals...)
	u.recorder.block(b)
	_, err := u.WriteAt(u.recent[begin:], u.Offset+u.base+int64(begin))
	return errors.Join(err, u.recorder.full)
}

// copy appends bytes from a distance before.
func (u *unpacker) copy(distance int64, n int) error {
	if distance <= 0 || distance > u.end() {
		return fmt.Errorf("%w: a match from before its beginning", errFormat)
	}
	for n > 0 {
		at := u.end() - distance
		var from []byte
		if at < u.base { // all of its page is in the file
			if from = u.pages.from(at); u.pages.err != nil {
				return u.pages.err
			}
			from = from[:min(int64(len(from)), u.base-at)]
		} else {
			from = u.recent[at-u.base:]
		}
		from = from[:min(n, len(from))]
		u.recent = append(u.recent, from...)
		n -= len(from)
	}
	return nil
}
