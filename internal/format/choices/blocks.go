// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package choices

import (
	"fmt"

	"wherry.example/wherry/internal/format/zstdframe"
)

// coding is a frame under way. Its methods take what a writer has, and leave there
// what a reader reads.
type coding struct {
	m         *model
	at        int64 // in the content
	sequences []zstdframe.Sequence
	content   []byte

	last                              chance
	kinds, literalsKinds, formats     [4][4]chance
	modes                             [3][4][4]chance
	full                              chance
	sizes, counts, treeSizes, lengths numbers
	tables                            [4][16][256]chance
	before                            struct {
		kind, literals, format int
		modes                  [3]int
	}
}

func newCoding(c *coder, p Past) *coding {
	return &coding{m: newModel(c, p), content: make([]byte, zstdframe.MaxBlock)}
}

const maxHeader = 32

// header codes bytes that are what they are.
func (c *coding) header(b []byte) []byte { return c.bytes(0, &c.lengths, b, maxHeader) }

// bytes codes up to limit bytes, of one kind.
func (c *coding) bytes(kind int, length *numbers, b []byte, limit int) []byte {
	n := min(c.m.c.number(length, len(b)), limit)
	out := make([]byte, n)
	last := 0
	for i := range out {
		v := 0
		if i < len(b) {
			v = int(b[i])
		}
		v = c.m.c.symbol(c.tables[kind][min(i, 7)<<1|last>>7][:], v)
		out[i], last = byte(v), v
	}
	return out
}

// block codes a block.
func (c *coding) block(b *zstdframe.Block) error {
	k := c.m.c
	b.Last = k.flag(&c.last, b.Last)
	b.Kind = k.symbol(c.kinds[c.before.kind][:], b.Kind)
	c.before.kind = b.Kind
	if k.flag(&c.full, b.Bytes == zstdframe.MaxBlock) {
		b.Bytes = zstdframe.MaxBlock
	} else {
		b.Bytes = k.number(&c.sizes, b.Bytes)
	}
	if b.Bytes > zstdframe.MaxBlock || int64(b.Bytes) > c.m.past.NewBytes-c.at || b.Kind > zstdframe.Compressed {
		return errFormat
	}
	if b.Kind == zstdframe.Compressed {
		if err := c.compressed(b); err != nil {
			return err
		}
	}
	c.at += int64(b.Bytes)
	return c.m.failed()
}

// maxTree and maxTable are the longest descriptions.
const maxTree, maxTable = 129, 80

func (c *coding) compressed(b *zstdframe.Block) error {
	k := c.m.c
	b.LiteralsKind = k.symbol(c.literalsKinds[c.before.literals][:], b.LiteralsKind)
	c.before.literals = b.LiteralsKind
	b.LiteralsFormat = k.symbol(c.formats[c.before.format][:], b.LiteralsFormat)
	c.before.format = b.LiteralsFormat
	if b.LiteralsKind == zstdframe.LiteralsHuffman {
		b.Tree = c.bytes(3, &c.treeSizes, b.Tree, maxTree)
	}
	count := k.number(&c.counts, len(b.Sequences))
	if count > b.Bytes/3 {
		return errFormat
	}
	if count == 0 {
		return nil
	}
	for i := range b.Modes {
		b.Modes[i] = k.symbol(c.modes[i][c.before.modes[i]][:], b.Modes[i])
		c.before.modes[i] = b.Modes[i]
		if m := b.Modes[i]; m == zstdframe.TableOwn || m == zstdframe.TableRLE {
			b.Tables[i] = c.bytes(i, &c.lengths, b.Tables[i], maxTable)
		}
	}
	left := b.Bytes
	for i := range count {
		var s zstdframe.Sequence
		if i < len(b.Sequences) {
			s = b.Sequences[i]
		}
		if err := c.m.sequence(&s, c.at+int64(b.Bytes-left), left); err != nil {
			return fmt.Errorf("sequence %d: %w", i, err)
		}
		left -= int(s.Literals + s.Match)
		if k.in != nil {
			b.Sequences = append(b.Sequences, s)
		}
	}
	return nil
}
