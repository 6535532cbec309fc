// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package pclntab takes out of Go programs what they can do without: line
// numbers, or (OnlyCode) everything that a program without a runtime never calls.
//
// A Go program carries a table for each function that tells the file and the
// line of every instruction: about an eighth of a compressed program, read
// for nothing but the traceback of a crash. DropLines clears these tables in
// place, for the functions that the caller can do without. Such a frame then
// reads `name(...) ?:0 +0x1d`: name and offset still tell the instruction, and
// `go tool addr2line` tells its line from the same source built with symbols.
// Code, stack maps, names and everything else that runs stay untouched.
//
// It knows the layout that Go 1.20 to 1.26 write and checks every table against
// its neighbours and its function's length before it changes a byte: a program
// of another layout is refused, never damaged. It reads and writes memory only.
package pclntab

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

const (
	magic      = 0xfffffff1 // Go 1.20
	headerSize = 8 + 8*8
	funcSize   = 44 // of a function's record, before its variable part
)

// Offsets in a function's record.
const (
	atName, atSP, atFile, atLine, atCount = 4, 16, 20, 24, 28
)

// table is .gopclntab.
type table struct {
	data    []byte
	names   []byte // names, each ended by a zero
	pc      []byte // tables that map instructions to values; 0 is none
	funcs   []byte // sorted index of functions, then their records
	count   int
	quantum uint32
}

// ErrLayout says that a table is not of a known layout. The program is as it was.
var ErrLayout = errors.New("not a line table that this version knows; was the program built by another Go?")

// DropLines clears files and lines of all functions that keep refuses, and
// returns how many bytes are now zero. The program is an ELF file.
func DropLines(program []byte, keep func(function string) bool) (int, error) {
	t, err := open(program)
	if err != nil {
		return 0, fmt.Errorf("drop line numbers: %w", err)
	}
	dropped, err := t.drop(keep)
	if err != nil {
		return 0, fmt.Errorf("drop line numbers: %w", err)
	}
	return dropped, nil
}

func open(program []byte) (*table, error) {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return nil, err
	}
	s := f.Section(".gopclntab")
	if s == nil || s.Type != elf.SHT_PROGBITS || s.Offset+s.FileSize > uint64(len(program)) || s.Offset+s.FileSize < s.Offset {
		return nil, errors.New("the program has no .gopclntab: it is not Go, or built position-independent")
	}
	return parse(program[s.Offset : s.Offset+s.FileSize])
}

func parse(b []byte) (*table, error) {
	if len(b) < headerSize || binary.LittleEndian.Uint32(b) != magic || b[7] != 8 || b[6] == 0 {
		return nil, ErrLayout
	}
	var field [8]uint64
	for i := range field {
		field[i] = binary.LittleEndian.Uint64(b[8+8*i:])
	}
	at := append(field[3:], uint64(len(b))) // names, units, files, tables, functions, end
	for i := 1; i < len(at); i++ {
		if at[i-1] < headerSize || at[i-1] > at[i] {
			return nil, ErrLayout
		}
	}
	if at[5] > uint64(len(b)) || field[0] == 0 || field[0] > (at[5]-at[4])/(8+funcSize) {
		return nil, ErrLayout
	}
	return &table{data: b, names: b[at[0]:at[1]], pc: b[at[3]:at[4]], funcs: b[at[4]:at[5]], count: int(field[0]), quantum: uint32(b[6])}, nil
}

// function is one function's record and its place in the code.
type function struct {
	record []byte
	length uint32
	name   string
}

func (f function) at(field int) uint32 { return binary.LittleEndian.Uint32(f.record[field:]) }

// function returns the i-th function, and an error when its record cannot be one.
func (t *table) function(i int) (function, error) {
	entry := binary.LittleEndian.Uint32(t.funcs[8*i:])
	off := binary.LittleEndian.Uint32(t.funcs[8*i+4:])
	next := binary.LittleEndian.Uint32(t.funcs[8*i+8:])
	if uint64(off)+funcSize > uint64(len(t.funcs)) || int(off) < 8*t.count+4 || next < entry {
		return function{}, ErrLayout
	}
	f := function{record: t.funcs[off:], length: next - entry}
	if f.at(0) != entry || uint64(f.at(atName)) >= uint64(len(t.names)) || uint64(f.at(atCount)) > uint64(len(f.record)-funcSize)/4 {
		return function{}, ErrLayout
	}
	name, _, ok := bytes.Cut(t.names[f.at(atName):], []byte{0})
	if !ok {
		return function{}, ErrLayout
	}
	f.name = string(name)
	return f, nil
}

// tables are the offsets of the tables that stay: stack sizes and what the
// compiler adds for the runtime.
func (f function) tables() []uint32 {
	out := []uint32{f.at(atSP)}
	for i := range f.at(atCount) {
		out = append(out, f.at(funcSize+4*int(i)))
	}
	return out
}

// span is a table's place in table.pc. Functions share tables that are equal.
type span struct {
	from, to uint32
	stays    bool
}

func (t *table) drop(keep func(string) bool) (int, error) {
	spans := map[uint32]*span{}
	var doomed []function
	for i := range t.count {
		f, err := t.function(i)
		if err != nil {
			return 0, err
		}
		stays := keep(f.name)
		if !stays {
			doomed = append(doomed, f)
		}
		for _, off := range f.tables() {
			if err := t.note(spans, off, f.length, true); err != nil {
				return 0, err
			}
		}
		for _, off := range []uint32{f.at(atFile), f.at(atLine)} {
			if err := t.note(spans, off, f.length, stays); err != nil {
				return 0, err
			}
		}
	}
	if err := disjoint(spans); err != nil {
		return 0, err
	}
	dropped := 0
	for _, s := range spans {
		if !s.stays {
			clear(t.pc[s.from:s.to])
			dropped += int(s.to - s.from)
		}
	}
	for _, f := range doomed {
		clear(f.record[atFile : atLine+4])
	}
	return dropped, nil
}

func (t *table) note(spans map[uint32]*span, off, length uint32, stays bool) error {
	if off == 0 {
		return nil
	}
	s := spans[off]
	if s == nil {
		end, err := t.end(off, length)
		if err != nil {
			return err
		}
		s = &span{from: off, to: end}
		spans[off] = s
	}
	s.stays = s.stays || stays
	return nil
}

// end finds where a table ends: pairs of a value's and an instruction's
// distance, both varints, until a value's distance of zero that is not the first.
func (t *table) end(off, length uint32) (uint32, error) {
	p, covered := uint64(off), uint64(0)
	for first := true; ; first = false {
		value, n := binary.Uvarint(t.pc[min(p, uint64(len(t.pc))):])
		if n <= 0 {
			return 0, ErrLayout
		}
		p += uint64(n)
		if value == 0 && !first {
			break
		}
		pc, n := binary.Uvarint(t.pc[p:])
		if n <= 0 || pc == 0 {
			return 0, ErrLayout
		}
		p += uint64(n)
		if covered += pc * uint64(t.quantum); covered > uint64(length) {
			return 0, ErrLayout
		}
	}
	return uint32(p), nil
}

// disjoint refuses tables that overlap: clearing one would damage the other.
func disjoint(spans map[uint32]*span) error {
	all := make([]*span, 0, len(spans))
	for _, s := range spans {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *span) int { return cmp.Compare(a.from, b.from) })
	for i := 1; i < len(all); i++ {
		if all[i].from < all[i-1].to {
			return ErrLayout
		}
	}
	return nil
}
