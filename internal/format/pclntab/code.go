// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pclntab

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
)

// trap is an instruction that ends the program: int3. Code that is left out is
// filled with it, so that a call that should not be ends there and not anywhere.
const trap = 0xcc

// OnlyCode leaves out all code of an x86-64 program but the functions that keep names, and
// the whole table: for a program that is entered at one of its own functions and calls nothing
// of Go's runtime, which the linker puts in all the same. The file keeps its size, and
// nothing moves; what is left out packs to nothing. It returns how many bytes that are.
func OnlyCode(program []byte, keep func(function string) bool) (int, error) {
	left, err := onlyCode(program, keep)
	if err != nil {
		return 0, fmt.Errorf("leave out code: %w", err)
	}
	return left, nil
}

func onlyCode(program []byte, keep func(string) bool) (int, error) {
	t, err := open(program)
	if err != nil {
		return 0, err
	}
	code, start, err := text(program)
	if err != nil {
		return 0, err
	}
	doomed, entered := [][]byte{}, false
	for i := range t.count {
		f, err := t.function(i)
		if err != nil {
			return 0, err
		}
		if uint64(f.at(0))+uint64(f.length) > uint64(len(code)) {
			return 0, ErrLayout
		}
		if !keep(f.name) {
			doomed = append(doomed, code[f.at(0):f.at(0)+f.length])
		} else if uint64(f.at(0)) == start {
			entered = true
		}
	}
	if !entered {
		return 0, errors.New("the program is not entered at a function that stays")
	}
	left := len(t.data)
	for _, f := range doomed {
		left += len(f)
		copy(f, bytes.Repeat([]byte{trap}, len(f)))
	}
	clear(t.data)
	return left, nil
}

// text is the program's code, and where in it the kernel enters.
func text(program []byte) (code []byte, start uint64, err error) {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return nil, 0, err
	}
	s := f.Section(".text")
	if s == nil || f.Machine != elf.EM_X86_64 || s.Offset+s.FileSize > uint64(len(program)) || s.Offset+s.FileSize < s.Offset || f.Entry < s.Addr {
		return nil, 0, ErrLayout
	}
	return program[s.Offset : s.Offset+s.FileSize], f.Entry - s.Addr, nil
}
