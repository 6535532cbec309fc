// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package choices carries what a compressor has chosen from a publisher to a machine.
//
// The kernel's payload is one zstd frame, packed with hundreds of megabytes of memory: a
// machine can't pack it again. But it can write the frame again, to the bit, if it is
// told what was chosen: blocks, tables, and sequences (how many literals, how long a match,
// from where). The content it has already. So that the choices are small they are told as differences
// from what both sides expect, which they know from the frame before (its content,
// its choices, and what moved where):
//
//   - where the old frame's compressor began a match, and how long it was, if
//     what is there has moved;
//   - whether what one of the last three distances leads to is equal, and how far;
//   - the nearest match of that length: a compressor takes this one nearly always.
//
// Each such question is a bit of an adaptive arithmetic code, whose chance is learned from questions like it.
// One model asks them for both sides: the writer answers, the reader reads the answers.
// So every change of the model is another format.
//
// Nothing here is trusted: there is no way to make Decode panic, take more than some 45 MB of memory,
// write more than the content can give, or take longer than in proportion to
// the content's size. Whether the frame is right its hash will tell, which is the caller's. All is
// read through small caches: content and records are in files.
package choices

import (
	"context"
	"errors"
	"fmt"
	"io"

	"wherry.example/wherry/internal/format/zstdframe"
)

var (
	errFormat = errors.New("the choices are damaged")
	errLimit  = errors.New("there is more than was told")
)

// Encode returns the choices in a frame, which has to be that of the new content.
func Encode(ctx context.Context, frame io.Reader, p Past) ([]byte, error) {
	r, err := zstdframe.NewReader(frame)
	if err != nil {
		return nil, err
	}
	c := newCoding(newWriter(), p)
	c.header(r.Bytes)
	for {
		b, _, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = errors.Join(ctx.Err(), c.block(b))
		}
		if err != nil {
			return nil, fmt.Errorf("tell the choices of a frame: %w", err)
		}
	}
	sum, err := r.Checksum()
	if err != nil {
		return nil, err
	}
	c.header(sum)
	return c.m.c.close(), nil
}

// Decode writes the frame of the new content.
func Decode(ctx context.Context, choices io.Reader, p Past, to io.Writer) error {
	c := newCoding(newReader(choices), p)
	w, err := zstdframe.NewWriter(to, c.header(nil))
	if err != nil {
		return err
	}
	for last := false; !last; {
		b := &zstdframe.Block{Sequences: c.sequences[:0]}
		if err := errors.Join(ctx.Err(), c.block(b)); err != nil {
			return fmt.Errorf("write a frame as it was chosen, at byte %d of its content: %w", c.at, err)
		}
		literals, err := c.literals(b)
		if err != nil {
			return err
		}
		if err := w.Block(b, literals); err != nil {
			return fmt.Errorf("write a frame as it was chosen, at byte %d of its content: %w", c.at, err)
		}
		c.sequences, last = b.Sequences, b.Last
	}
	_, err = to.Write(c.header(nil))
	return err
}

// literals collects what a block's sequences leave over of its content.
func (c *coding) literals(b *zstdframe.Block) ([]byte, error) {
	content := c.content[:b.Bytes]
	if n, err := c.m.past.New.ReadAt(content, c.at-int64(b.Bytes)); n < len(content) {
		return nil, fmt.Errorf("read the new content: %w", err)
	}
	if b.Kind != zstdframe.Compressed {
		return content, nil
	}
	kept, rest := content[:0], content
	for _, s := range b.Sequences {
		kept = append(kept, rest[:s.Literals]...)
		rest = rest[s.Literals+s.Match:]
	}
	return append(kept, rest...), nil
}
