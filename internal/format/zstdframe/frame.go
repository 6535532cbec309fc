// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package zstdframe takes zstd frames (RFC 8878) apart into what their compressor has chosen, and
// writes frames as chosen.
//
// A frame is a row of blocks. Of each a compressor has chosen the kind, how its literals
// are coded and by which tables, and the sequences: so many literals, then so many bytes of what was so far
// before. All the rest follows, if it is done as libzstd does it. So a Reader's blocks, given to a
// Writer, make the same bytes again; where another program has packed they may make others, and who needs
// the same must look. No dictionaries.
//
// Frames and choices are not trusted: no input makes these functions panic, and
// none takes more memory than a block and its sequences, some 3 MB. Content is the caller's: a Reader returns
// literals and sequences, and copies nothing.
package zstdframe

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// What can be wrong.
var (
	errDamaged = errors.New("the zstd frame is damaged")
	errChoices = errors.New("the choices do not fit the content")
)

// MaxBlock is the most that one block holds.
const MaxBlock = 128 << 10

// Kinds of blocks, as in the frame.
const (
	Raw        = 0
	RLE        = 1
	Compressed = 2
)

// Kinds of literals sections, and of tables (Repeat: the one before).
const (
	LiteralsRaw      = 0
	LiteralsRLE      = 1
	LiteralsHuffman  = 2
	LiteralsTreeless = 3

	TableDefault = 0
	TableRLE     = 1
	TableOwn     = 2
	TableRepeat  = 3
)

// Tables of a block, in the order of their descriptions.
const (
	LiteralLengths = iota
	Offsets
	MatchLengths
	tables
)

// Sequence is some literals, and then Match bytes from Distance bytes before.
type Sequence struct {
	Literals, Match uint32
	Distance        uint32 // of damaged frames it may be anything
	// Code is how the distance was written: 1 to 3, one of those before; else 3 more than it.
	Code uint32
}

// Block is what a compressor has chosen for a part of the content.
type Block struct {
	Last  bool
	Kind  int
	Bytes int // of content

	LiteralsKind, LiteralsFormat int
	Literals                     int    // bytes; of a Compressed block
	Tree                         []byte // description of LiteralsHuffman
	Modes                        [tables]int
	Tables                       [tables][]byte // descriptions of those that are TableOwn or TableRLE
	Sequences                    []Sequence
}

// coding is the code of one of the three numbers in a sequence.
type coding struct {
	counts  distribution // without counts: symbol only
	symbol  uint8
	decoder []fseState
	encoder *fseEncoder
}

// state is what a block inherits from those before.
type state struct {
	tree    *huffman
	codings [tables]*coding
	repeats Repeats
}

// Repeats are the last three distances (RFC 8878, section 3.1.1.5).
type Repeats [3]uint32

// NewRepeats are those at a frame's beginning.
func NewRepeats() Repeats { return Repeats{1, 4, 8} }

// Distance is what a code means behind that many literals; 0: nothing.
func (r *Repeats) Distance(code, literals uint32) uint32 {
	if code > 3 {
		*r = Repeats{code - 3, r[0], r[1]}
		return r[0]
	}
	if literals == 0 {
		code++
	}
	switch code {
	case 1:
	case 2:
		*r = Repeats{r[1], r[0], r[2]}
	case 3:
		*r = Repeats{r[2], r[0], r[1]}
	default:
		*r = Repeats{r[0] - 1, r[0], r[1]}
	}
	return r[0]
}

// Code is the code of a distance behind that many literals: a short one where there is one.
func (r *Repeats) Code(distance, literals uint32) uint32 {
	switch {
	case literals > 0 && distance == r[0]:
		return 1
	case distance == r[1]:
		return min(2, 1+literals)
	case distance == r[2]:
		return min(3, 2+literals)
	case literals == 0 && distance == r[0]-1:
		return 3
	}
	return distance + 3
}

var limits = [tables]struct{ log, symbol int }{{9, 35}, {8, 31}, {9, 52}}

var defaults = [tables]*coding{
	newCoding(distribution{log: 6, counts: []int16{4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1}}),
	newCoding(distribution{log: 5, counts: []int16{1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1}}),
	newCoding(distribution{log: 6, counts: []int16{1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1}}),
}

func newCoding(d distribution) *coding {
	return &coding{counts: d, decoder: d.decoder(), encoder: d.encoder()}
}

// setTable takes the table of a block that begins b, and returns the length of its description.
func (s *state) setTable(which, mode int, b []byte) (used int, err error) {
	switch mode {
	case TableDefault:
		s.codings[which] = defaults[which]
	case TableRLE:
		if len(b) == 0 || int(b[0]) > limits[which].symbol {
			return 0, errDamaged
		}
		s.codings[which] = &coding{symbol: b[0]}
		used = 1
	case TableOwn:
		var d distribution
		if d, used, err = readDistribution(b, limits[which].log, limits[which].symbol); err != nil {
			return 0, err
		}
		s.codings[which] = newCoding(d)
	case TableRepeat:
		if s.codings[which] == nil {
			return 0, errDamaged
		}
	}
	return used, nil
}

// Header is the beginning of a frame: its bytes, and whether a checksum ends the frame.
type Header struct {
	Bytes []byte
	Sum   bool
}

// Reader reads a frame block by block.
type Reader struct {
	Header
	r         *bufio.Reader
	s         state
	room      []byte
	stream    []byte // a copy of what is read backwards
	sequences []Sequence
	literals  []byte
	done      bool
}

// NewReader reads the header of a frame. Dictionaries are not known.
func NewReader(r io.Reader) (*Reader, error) {
	f := &Reader{r: bufio.NewReaderSize(r, 64<<10), room: make([]byte, 0, MaxBlock), s: state{repeats: NewRepeats()}}
	b, err := f.r.Peek(5)
	if err != nil || little.Uint32(b) != 0xfd2fb528 {
		return nil, fmt.Errorf("%w: it does not begin as one", errDamaged)
	}
	flags := b[4]
	single, size := flags>>5&1 == 1, []int{0, 2, 4, 8}[flags>>6]
	if single && size == 0 {
		size = 1
	}
	n := 5 + size
	if !single {
		n++
	}
	if flags&0x0b != 0 {
		return nil, fmt.Errorf("%w: it has a dictionary, or bits of no meaning", errDamaged)
	}
	f.Header = Header{Bytes: make([]byte, n), Sum: flags>>2&1 == 1}
	if err := f.full(f.Bytes); err != nil {
		return nil, err
	}
	return f, nil
}

// Next returns the next block, its literals (of a Raw block: its content; of an RLE block its byte), and
// io.EOF behind the last. What it returned before is no longer valid then.
func (f *Reader) Next() (*Block, []byte, error) {
	if f.done {
		return nil, nil, io.EOF
	}
	var h [3]byte
	if err := f.full(h[:]); err != nil {
		return nil, nil, err
	}
	v := int(h[0]) | int(h[1])<<8 | int(h[2])<<16
	b := &Block{Last: v&1 == 1, Kind: v >> 1 & 3}
	size := v >> 3
	b.Bytes = size
	if b.Kind == RLE {
		size = 1
	}
	if size > MaxBlock || b.Bytes > MaxBlock || b.Kind > Compressed {
		return nil, nil, errDamaged
	}
	f.done = b.Last
	f.room = f.room[:size]
	if err := f.full(f.room); err != nil {
		return nil, nil, err
	}
	if b.Kind != Compressed {
		return b, f.room, nil
	}
	literals, rest, err := f.readLiterals(b, f.room)
	if err != nil {
		return nil, nil, fmt.Errorf("literals: %w", err)
	}
	if err := f.readSequences(b, rest); err != nil {
		return nil, nil, fmt.Errorf("sequences: %w", err)
	}
	return b, literals, nil
}

// full reads all of b. A frame that ends before is damaged, and no end.
func (f *Reader) full(b []byte) error {
	_, err := io.ReadFull(f.r, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it is cut off", errDamaged)
	}
	return err
}

// Checksum reads the checksum behind the last block, of a frame that has one.
func (f *Reader) Checksum() ([]byte, error) {
	if !f.Header.Sum {
		return nil, nil
	}
	b := make([]byte, 4)
	return b, f.full(b)
}
