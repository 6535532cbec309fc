// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package delta

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// A line added to a program moves all that follows, and every address of what
// moved changes, wherever it is written. The control stream says what moved
// where, and is known before the first byte of difference: so both sides can
// correct the addresses in old bytes before they are compared. Where addresses
// are is told by rules over ranges of the old object. A rule may be wrong about a
// place: the correction then is a wrong guess, which the difference takes back.
// Nothing here is believed, so nothing here must be exact, only the same on both sides.

// Prediction says where an object's addresses are. The zero value predicts
// that bytes stay as they are.
type Prediction struct {
	Old, New []Segment
	Blank    []Blank
	Rules    []Rule
}

// Blank is memory that no part of an object fills, such as .bss: nothing in the
// control stream tells that it moved.
type Blank struct{ Old, New, Bytes int64 }

// Segment is where a part of an object is in memory when it runs.
type Segment struct{ Offset, Address, Bytes int64 }

// Kinds of rules.
const (
	Code   = 0 // x86-64: relative jumps and calls, operands relative to the instruction
	Words  = 1 // addresses in aligned words of 8 bytes
	Table  = 2 // 4-byte offsets from a base, one in each Stride bytes
	GoFunc = 3 // Go's table of functions, see gofunc.go
	// Linux's tables and code: 4-byte distances from the place itself, one in each Stride bytes; 4-byte
	// addresses of which the upper half is all ones, one in each Stride bytes; Code with such addresses as operands;
	// what is missing from a place to one before the base, in 4 bytes each; numbers of entries, 4 bytes each, of
	// the table that begins at the base, in 3 bytes, highest first.
	Relative = 4
	Halves   = 5
	Kernel   = 6
	Missing  = 7
	Ranks    = 8
)

// Rule tells of a range of the old object.
type Rule struct {
	Kind  int
	Range // of the old object
	// Table, Relative, Halves: the distance between two offsets. Table: the greatest that is one.
	Stride, Limit int64
	// Table, Missing, Ranks and GoFunc: what offsets count from, as addresses in both objects. GoFunc has several.
	OldBases, NewBases []int64
}

// maxAddress is for either sign: a kernel's addresses are negative.
const maxAddress = 1<<62 - 1

func (p *Prediction) parse(w *wire, o Object) {
	p.Old, p.New = w.segments(o.Old.Bytes), w.segments(o.Bytes)
	for range w.number(maxRules) {
		p.Blank = append(p.Blank, Blank{w.signed(maxAddress), w.signed(maxAddress), w.number(maxObject)})
	}
	var last int64
	for range w.number(maxRules) {
		r := Rule{Kind: int(w.number(Ranks))}
		r.Range = w.span(&last, o.Old.Bytes)
		switch r.Kind {
		case Table:
			r.parseStride(w)
			r.Limit = w.number(maxObject)
			r.parseBases(w, 1)
		case Relative, Halves:
			r.parseStride(w)
		case GoFunc:
			r.parseBases(w, goBases)
		case Missing, Ranks:
			r.parseBases(w, 1)
		}
		if w.err != nil {
			return
		}
		p.Rules = append(p.Rules, r)
	}
}

func (r *Rule) parseStride(w *wire) {
	if r.Stride = w.number(1 << 10); r.Stride < 4 {
		w.fail()
	}
}

func (r *Rule) parseBases(w *wire, count int) {
	for range count {
		r.OldBases = append(r.OldBases, w.signed(maxAddress))
		r.NewBases = append(r.NewBases, w.signed(maxAddress))
	}
}

func (w *wire) segments(limit int64) (all []Segment) {
	var last int64
	for range w.number(maxRules) {
		s := Segment{Address: w.signed(maxAddress)}
		r := w.span(&last, limit)
		s.Offset, s.Bytes = r.Offset, r.Bytes
		if w.err != nil {
			return nil
		}
		all = append(all, s)
	}
	return all
}

func (p Prediction) encode(e *encoder) {
	for _, segments := range [][]Segment{p.Old, p.New} {
		e.number(int64(len(segments)))
		var last int64
		for _, s := range segments {
			e.signed(s.Address)
			e.span(&last, Range{s.Offset, s.Bytes})
		}
	}
	e.number(int64(len(p.Blank)))
	for _, b := range p.Blank {
		e.signed(b.Old)
		e.signed(b.New)
		e.number(b.Bytes)
	}
	e.number(int64(len(p.Rules)))
	var last int64
	for _, r := range p.Rules {
		e.number(int64(r.Kind))
		e.span(&last, r.Range)
		if r.Kind == Table || r.Kind == Relative || r.Kind == Halves {
			e.number(r.Stride)
		}
		if r.Kind == Table {
			e.number(r.Limit)
		}
		for i := range r.OldBases { // other kinds have none
			e.signed(r.OldBases[i])
			e.signed(r.NewBases[i])
		}
	}
}

// Control is one entry of the control stream: Copy old bytes with their
// difference, then Extra new bytes; the next entry's old bytes begin Seek after these.
type Control struct{ Copy, Extra, Seek int64 }

// move is a run of old bytes that became a run of new ones.
type move struct{ old, new, bytes uint32 }

// minMove is the length from which a run says something about addresses.
// Shorter ones are often chance.
const minMove = 24

// movesOf are the runs of a control stream, by their old place. Where old bytes
// became several new ones, the longest run tells.
func movesOf(controls []Control) []move {
	var all []move
	var old, to int64
	for _, c := range controls {
		if c.Copy >= minMove {
			all = append(all, move{uint32(old), uint32(to), uint32(c.Copy)})
		}
		old += c.Copy + c.Seek
		to += c.Copy + c.Extra
	}
	slices.SortFunc(all, func(a, b move) int {
		return cmp.Or(cmp.Compare(a.old, b.old), cmp.Compare(b.bytes, a.bytes), cmp.Compare(a.new, b.new))
	})
	apart := all[:0]
	for _, m := range all {
		if n := len(apart); n > 0 && m.old < apart[n-1].end() {
			last := &apart[n-1]
			switch {
			case m.end() <= last.end():
				continue
			case m.bytes > last.bytes:
				last.bytes = m.old - last.old
			default:
				cut := last.end() - m.old
				m = move{m.old + cut, m.new + cut, m.bytes - cut}
			}
		}
		apart = append(apart, m)
	}
	return apart
}

func (m move) end() uint32 { return m.old + m.bytes }

// Predictor corrects the addresses in an object's old bytes.
type Predictor struct {
	Prediction
	moves []move
	sites []site // of GoFunc rules, by offset
}

// NewPredictor prepares the correction of the object whose old content is
// old, under its whole control stream.
func NewPredictor(p Prediction, controls []Control, old io.ReaderAt) (*Predictor, error) {
	out := &Predictor{Prediction: p}
	if len(p.Rules) == 0 {
		return out, nil
	}
	out.moves = movesOf(controls)
	for i, r := range p.Rules {
		if r.Kind != GoFunc {
			continue
		}
		if err := out.findGoFunc(i, old); err != nil {
			return nil, fmt.Errorf("read the old object: %w", err)
		}
	}
	slices.SortFunc(out.sites, func(a, b site) int { return cmp.Compare(a.offset, b.offset) })
	return out, nil
}

// moved says where an old address went. Addresses outside of the object, and those before
// everything that is known, stay.
func (p *Predictor) moved(address int64) (int64, bool) {
	offset, ok := offsetOf(p.Old, address)
	if !ok {
		for _, b := range p.Blank {
			if address >= b.Old && address-b.Old <= b.Bytes {
				return b.New + address - b.Old, true
			}
		}
		return address, false
	}
	i, exact := slices.BinarySearchFunc(p.moves, uint32(offset), func(m move, at uint32) int { return cmp.Compare(m.old, at) })
	if !exact { // the run before holds it, or says best where its neighbours went
		if i--; i < 0 {
			return address, true
		}
	}
	to := offset - int64(p.moves[i].old) + int64(p.moves[i].new)
	if a, ok := addressOf(p.New, to); ok {
		return a, true
	}
	return address, true
}

func offsetOf(segments []Segment, address int64) (int64, bool) {
	for _, s := range segments {
		if address >= s.Address && address-s.Address < s.Bytes {
			return s.Offset + address - s.Address, true
		}
	}
	return 0, false
}

func addressOf(segments []Segment, offset int64) (int64, bool) {
	for _, s := range segments {
		if offset >= s.Offset && offset-s.Offset < s.Bytes {
			return s.Address + offset - s.Offset, true
		}
	}
	return 0, false
}

// correct turns old bytes, from offset old of the old object, into what is
// expected of them at offset to of the new one. It sees no other bytes than these.
func (p *Predictor) correct(b []byte, old, to int64) {
	for _, r := range p.Rules {
		from := max(r.Offset, old)
		end := min(r.Offset+r.Bytes, old+int64(len(b)))
		if from >= end {
			continue
		}
		part := b[from-old : end-old]
		switch r.Kind {
		case Code, Kernel:
			p.correctCode(part, from, to+from-old, r.Kind == Kernel)
		case Words:
			p.correctWords(part, from)
		case Table:
			p.correctTable(part, from, r)
		case GoFunc:
			p.correctSites(part, from)
		case Relative:
			p.correctRelative(part, from, to+from-old, r)
		case Halves:
			p.correctHalves(part, from, r)
		case Missing:
			p.correctMissing(part, from, r)
		case Ranks:
			p.correctRanks(part, from, r)
		}
	}
}

var little = binary.LittleEndian

// correctCode goes over machine code by its bytes, not by instructions: what
// looks like an address within the program is one, often enough.
func (p *Predictor) correctCode(b []byte, old, to int64, kernel bool) {
	here, ok1 := addressOf(p.Old, old)
	there, ok2 := addressOf(p.New, to)
	if !ok1 || !ok2 {
		return
	}
	for i := 0; i+5 <= len(b); i++ {
		if kernel && p.correctHalf(b[i+1:]) {
			i += 4
			continue
		}
		if !relative(b, i) {
			continue
		}
		next := int64(i) + 5
		distance := int64(int32(little.Uint32(b[i+1:])))
		target, ok := p.moved(here + next + distance)
		if !ok {
			continue
		}
		little.PutUint32(b[i+1:], uint32(target-there-next))
		i += 4
	}
}

// relative tells whether the byte may be the last one before a 4-byte
// distance: a call or jump, a conditional jump, or an operand relative to the instruction.
func relative(b []byte, i int) bool {
	switch c := b[i]; {
	case c == 0xe8, c == 0xe9:
		return true
	case i == 0:
		return false
	case c&0xf0 == 0x80:
		return b[i-1] == 0x0f
	case c&0xc7 == 0x05:
		return operations[b[i-1]] || i > 4 && (b[i-2] == 0x0f || b[i-3] == 0xc5 || b[i-4] == 0xc4 || b[i-5] == 0x62)
	}
	return false
}

// operations are the instructions of one byte that have operands in memory and are not rare.
var operations = func() (all [256]bool) {
	for c := range 0x40 { // arithmetic
		all[c] = c&7 < 4
	}
	for _, c := range []byte{0x63, 0x69, 0x6b, 0x80, 0x81, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8d, 0xc6, 0xc7, 0xf6, 0xf7, 0xff} {
		all[c] = true
	}
	return all
}()

func (p *Predictor) correctWords(b []byte, old int64) {
	for i := int(-old & 7); i+8 <= len(b); i += 8 {
		v := little.Uint64(b[i:])
		if v == 0 {
			continue
		}
		if a, ok := p.moved(int64(v)); ok {
			little.PutUint64(b[i:], uint64(a))
		}
	}
}

func (p *Predictor) correctTable(b []byte, old int64, r Rule) {
	for i := r.first(old); i+4 <= int64(len(b)); i += r.Stride {
		if int64(little.Uint32(b[i:])) <= r.Limit {
			p.correctOffset(b[i:], r.OldBases[0], r.NewBases[0])
		}
	}
}

// correctOffset corrects a distance from a base that may itself have moved.
func (p *Predictor) correctOffset(b []byte, oldBase, newBase int64) {
	if a, ok := p.moved(oldBase + int64(little.Uint32(b))); ok {
		little.PutUint32(b, uint32(a-newBase))
	}
}
