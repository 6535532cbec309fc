// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package zstdframe

import (
	"fmt"
	"io"
	"math/bits"
)

// Writer writes a frame block by block.
type Writer struct {
	w io.Writer
	s state
	b []byte
}

// NewWriter begins a frame with a header's bytes.
func NewWriter(w io.Writer, header []byte) (*Writer, error) {
	_, err := w.Write(header)
	return &Writer{w: w, s: state{repeats: NewRepeats()}}, err
}

// Block writes a block as it was chosen. Of a Compressed block literals are those of all its
// sequences and of its end, of other blocks the content.
func (f *Writer) Block(b *Block, literals []byte) (err error) {
	f.b = append(f.b[:0], 0, 0, 0)
	size := b.Bytes
	switch b.Kind {
	case Raw:
		f.b = append(f.b, literals...)
	case RLE:
		if len(literals) == 0 {
			return errChoices
		}
		f.b = append(f.b, literals[0])
	case Compressed:
		if err := f.literals(b, literals); err != nil {
			return fmt.Errorf("write literals: %w", err)
		}
		if err := f.sequences(b); err != nil {
			return fmt.Errorf("write sequences: %w", err)
		}
		size = len(f.b) - 3
	}
	v := size<<3 | b.Kind<<1
	if b.Last {
		v |= 1
	}
	if size > MaxBlock {
		return errChoices
	}
	f.b[0], f.b[1], f.b[2] = byte(v), byte(v>>8), byte(v>>16)
	_, err = f.w.Write(f.b)
	return err
}

func (f *Writer) literals(b *Block, literals []byte) (err error) {
	n := len(literals)
	if b.LiteralsKind == LiteralsRaw || b.LiteralsKind == LiteralsRLE {
		shift := []int{3, 4, 3, 4}[b.LiteralsFormat]
		v := n<<shift | b.LiteralsFormat<<2 | b.LiteralsKind
		for range []int{1, 2, 1, 3}[b.LiteralsFormat] {
			f.b, v = append(f.b, byte(v)), v>>8
		}
		if b.LiteralsKind == LiteralsRLE {
			if n == 0 {
				return errChoices
			}
			literals = literals[:1]
		}
		f.b = append(f.b, literals...)
		return nil
	}
	if b.LiteralsKind == LiteralsHuffman {
		if f.s.tree, _, err = readHuffman(b.Tree); err != nil {
			return err
		}
	}
	if f.s.tree == nil {
		return errChoices
	}
	width := literalsWidth(b.LiteralsFormat)
	start := len(f.b)
	body := start + (4+2*width)/8
	f.b = append(append(f.b, make([]byte, body-start)...), b.Tree...)
	if err := f.packLiterals(b.LiteralsFormat, literals); err != nil {
		return err
	}
	v := uint64(b.LiteralsKind | b.LiteralsFormat<<2 | n<<4 | (len(f.b)-body)<<(4+width))
	for i := start; i < body; i++ {
		f.b[i], v = byte(v), v>>8
	}
	return nil
}

// packLiterals appends one stream, or four with the lengths of three before them.
func (f *Writer) packLiterals(format int, literals []byte) (err error) {
	if format == 0 {
		f.b, err = f.s.tree.encode(f.b, literals)
		return err
	}
	jump, part := len(f.b), (len(literals)+3)/4
	if 3*part > len(literals) {
		return errChoices
	}
	f.b = append(f.b, make([]byte, 6)...)
	for i := range 4 {
		before := len(f.b)
		if f.b, err = f.s.tree.encode(f.b, literals[i*part:min((i+1)*part, len(literals))]); err != nil {
			return err
		}
		if i < 3 {
			little.PutUint16(f.b[jump+2*i:], uint16(len(f.b)-before))
		}
	}
	return nil
}

func (f *Writer) sequences(b *Block) error {
	n := len(b.Sequences)
	switch {
	case n < 128:
		f.b = append(f.b, byte(n))
	case n < longCount:
		f.b = append(f.b, byte(n>>8+128), byte(n))
	default:
		f.b = append(f.b, 255, byte(n-longCount), byte((n-longCount)>>8))
	}
	if n == 0 {
		return nil
	}
	f.b = append(f.b, byte(b.Modes[0]<<6|b.Modes[1]<<4|b.Modes[2]<<2))
	for i := range tables {
		if _, err := f.s.setTable(i, b.Modes[i], b.Tables[i]); err != nil {
			return err
		}
		f.b = append(f.b, b.Tables[i]...)
	}
	return f.packSequences(b.Sequences)
}

// writing is the state of one of the three codes while sequences are written.
type writing struct {
	*coding
	state int
}

func (c *writing) has(symbol uint8) bool {
	if c.encoder == nil {
		return c.symbol == symbol
	}
	return int(symbol) < len(c.counts.counts) && c.counts.counts[symbol] != 0
}

// packSequences writes them from the last to the first, because they are read backwards.
func (f *Writer) packSequences(all []Sequence) error {
	w := bitWriter{b: f.b}
	var codes [tables]writing
	for i := range codes {
		codes[i].coding = f.s.codings[i]
	}
	for i := len(all) - 1; i >= 0; i-- {
		s := all[i]
		offset := uint8(bits.Len32(s.Code) - 1)
		symbols := [tables]uint8{literalCode(s.Literals), offset, matchCode(s.Match)}
		for k, symbol := range symbols {
			if !codes[k].has(symbol) {
				return errChoices
			}
		}
		for _, k := range []int{Offsets, MatchLengths, LiteralLengths} {
			c := &codes[k]
			switch {
			case c.encoder == nil:
			case i == len(all)-1:
				c.state = c.encoder.start(symbols[k])
			default:
				c.state = c.encoder.step(&w, c.state, symbols[k])
			}
		}
		l, m := literalLengths[symbols[LiteralLengths]], matchLengths[symbols[MatchLengths]]
		w.write(uint64(s.Literals-l.least), l.bits)
		w.write(uint64(s.Match-m.least), m.bits)
		w.write(uint64(s.Code), int(offset))
	}
	for _, k := range []int{MatchLengths, Offsets, LiteralLengths} {
		if c := codes[k]; c.encoder != nil {
			w.write(uint64(c.state), c.encoder.log)
		}
	}
	f.b = w.close()
	return nil
}

func literalCode(n uint32) uint8 { return codeOf(literalLengths, n, 16, 64, 19) }
func matchCode(n uint32) uint8   { return codeOf(matchLengths, n, 35, 131, 36) }

// codeOf finds the code of a length: below small there is one for each, from large on one for each number of
// bits, which is base more than the code.
func codeOf(all []length, n, small, large uint32, base int) uint8 {
	if n < small {
		return uint8(n - all[0].least)
	}
	if n >= large {
		if large == 64 {
			return uint8(bits.Len32(n) - 1 + base)
		}
		return uint8(bits.Len32(n-3) - 1 + base)
	}
	code := len(all) - 1
	for all[code].least > n {
		code--
	}
	return uint8(code)
}
