// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package zstdframe

// literalsHeader reads the sizes of a literals section: of the content, and packed.
func literalsHeader(b []byte, kind, format int) (header, size, packed int) {
	var five [8]byte
	copy(five[:], b[:min(5, len(b))])
	v := little.Uint64(five[:])
	if kind == LiteralsRaw || kind == LiteralsRLE {
		switch format {
		case 1:
			return 2, int(v >> 4 & (1<<12 - 1)), 0
		case 3:
			return 3, int(v >> 4 & (1<<20 - 1)), 0
		}
		return 1, int(v >> 3 & 31), 0
	}
	width := literalsWidth(format)
	return (4 + 2*width) / 8, int(v >> 4 & (1<<width - 1)), int(v >> (4 + width) & (1<<width - 1))
}

// literalsWidth is how many bits a packed section's sizes have.
func literalsWidth(format int) int { return []int{10, 10, 14, 18}[format] }

func (f *Reader) readLiterals(b *Block, in []byte) (literals, rest []byte, err error) {
	if len(in) == 0 {
		return nil, nil, errDamaged
	}
	b.LiteralsKind, b.LiteralsFormat = int(in[0]&3), int(in[0]>>2&3)
	header, size, packed := literalsHeader(in, b.LiteralsKind, b.LiteralsFormat)
	b.Literals = size
	switch b.LiteralsKind {
	case LiteralsRaw:
		packed = size
	case LiteralsRLE:
		packed = 1
	}
	if header+packed > len(in) || size > MaxBlock {
		return nil, nil, errDamaged
	}
	body, rest := in[header:header+packed], in[header+packed:]
	switch b.LiteralsKind {
	case LiteralsRaw:
		return body, rest, nil
	case LiteralsRLE:
		f.literals = f.literals[:0]
		for range size {
			f.literals = append(f.literals, body[0])
		}
		return f.literals, rest, nil
	case LiteralsHuffman:
		tree, used, err := readHuffman(body)
		if err != nil {
			return nil, nil, err
		}
		f.s.tree, b.Tree, body = tree, append([]byte(nil), body[:used]...), body[used:]
	}
	if f.s.tree == nil || size == 0 {
		return nil, nil, errDamaged
	}
	f.literals = append(f.literals[:0], make([]byte, size)...)
	return f.literals, rest, f.unpackLiterals(b, body)
}

func (f *Reader) unpackLiterals(b *Block, body []byte) (err error) {
	if b.LiteralsFormat == 0 {
		f.stream, err = f.s.tree.decode(f.literals, body, f.stream)
		return err
	}
	if len(body) < 6 || b.Literals < 6 {
		return errDamaged
	}
	part, at := (b.Literals+3)/4, 6
	for i := range 4 {
		n := len(body) - at
		if i < 3 {
			n = int(little.Uint16(body[2*i:]))
		}
		from, to := i*part, min((i+1)*part, b.Literals)
		if n < 0 || n > len(body)-at || from > to {
			return errDamaged
		}
		if f.stream, err = f.s.tree.decode(f.literals[from:to], body[at:at+n], f.stream); err != nil {
			return err
		}
		at += n
	}
	return nil
}

func (f *Reader) readSequences(b *Block, in []byte) error {
	count, header := sequenceCount(in)
	if header == 0 {
		return errDamaged
	}
	in = in[header:]
	b.Bytes = b.Literals
	if count == 0 {
		if len(in) != 0 {
			return errDamaged
		}
		return nil
	}
	if len(in) == 0 || in[0]&3 != 0 {
		return errDamaged
	}
	modes := in[0]
	in = in[1:]
	for i := range tables {
		b.Modes[i] = int(modes >> (6 - 2*i) & 3)
		used, err := f.s.setTable(i, b.Modes[i], in)
		if err != nil {
			return err
		}
		b.Tables[i], in = append([]byte(nil), in[:used]...), in[used:]
	}
	return f.unpackSequences(b, in, count)
}

// sequenceCount reads how many sequences there are, and how long that number is; 0: it is cut off.
func sequenceCount(b []byte) (count, header int) {
	switch {
	case len(b) < 1:
	case b[0] < 128:
		return int(b[0]), 1
	case len(b) < 2:
	case b[0] < 255:
		return int(b[0]-128)<<8 | int(b[1]), 2
	case len(b) >= 3:
		return int(little.Uint16(b[1:])) + longCount, 3
	}
	return 0, 0
}

const longCount = 0x7f00

// reading is the state of one of the three codes while sequences are read.
type reading struct {
	*coding
	state uint64
}

func (c *reading) symbol() uint8 {
	if c.decoder == nil {
		return c.coding.symbol
	}
	return c.decoder[c.state].symbol
}

func (c *reading) start(r *backward) {
	if c.decoder != nil {
		c.state = r.read(c.counts.log)
	}
}

func (c *reading) step(r *backward) {
	if c.decoder != nil {
		s := c.decoder[c.state]
		c.state = uint64(s.next) + r.read(int(s.bits))
	}
}

func (f *Reader) unpackSequences(b *Block, in []byte, count int) error {
	r, room, err := newBackward(in, f.stream)
	if f.stream = room; err != nil {
		return err
	}
	var codes [tables]reading
	for i := range codes {
		codes[i].coding = f.s.codings[i]
		codes[i].start(&r)
	}
	literals := 0
	f.sequences = f.sequences[:0]
	for i := range count {
		offset := codes[Offsets].symbol()
		code := uint32(1<<offset + r.read(int(offset)))
		match := matchLengths[codes[MatchLengths].symbol()].read(&r)
		run := literalLengths[codes[LiteralLengths].symbol()].read(&r)
		if i < count-1 {
			codes[LiteralLengths].step(&r)
			codes[MatchLengths].step(&r)
			codes[Offsets].step(&r)
		}
		literals += int(run)
		b.Bytes += int(match)
		if r.at < 0 || literals > b.Literals || b.Bytes > MaxBlock {
			return errDamaged
		}
		f.sequences = append(f.sequences, Sequence{Literals: run, Match: match, Code: code, Distance: f.s.repeats.Distance(code, run)})
	}
	if b.Sequences = f.sequences; r.at != 0 {
		return errDamaged
	}
	return nil
}

// length is a code of lengths: its least one, and how many bits come on top.
type length struct {
	least uint32
	bits  int
}

func (l length) read(r *backward) uint32 { return l.least + uint32(r.read(l.bits)) }

var literalLengths, matchLengths = lengths(0, 16, 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16),
	lengths(3, 32, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)

// lengths lists codes: count of one length each, from least on, and then those with bits.
func lengths(least uint32, count int, wide ...int) (all []length) {
	for range count {
		all = append(all, length{least, 0})
		least++
	}
	for _, n := range wide {
		all = append(all, length{least, n})
		least += 1 << n
	}
	return all
}
