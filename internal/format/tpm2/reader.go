// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package tpm2

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var errShort = errors.New("it ends too early")

// reader takes numbers and bytes off the front. After the first mistake it
// gives zeros, so that only the end looks at err.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if r.err == nil && (n < 0 || n > len(r.b)) {
		r.err = errShort
	}
	if r.err != nil {
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u8() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) sized(limit int) []byte {
	n := int(r.u16())
	if r.err == nil && n > limit {
		r.err = fmt.Errorf("a field of %d bytes, more than %d", n, limit)
	}
	return r.take(n)
}

// want reads a number that must be the one expected.
func (r *reader) want(what string, expected uint16) {
	if got := r.u16(); r.err == nil && got != expected {
		r.err = fmt.Errorf("%s is 0x%04x, want 0x%04x", what, got, expected)
	}
}

// selection reads a TPML_PCR_SELECTION of SHA-256 registers alone.
func (r *reader) selection() Selection {
	if n := r.u32(); r.err == nil && n != 1 {
		r.err = fmt.Errorf("%w (%d banks)", ErrNoSHA256, n)
	}
	if alg := r.u16(); r.err == nil && alg != algSHA256 {
		r.err = fmt.Errorf("%w (bank 0x%04x)", ErrNoSHA256, alg)
	}
	n := int(r.u8())
	if r.err == nil && (n < 3 || n > 4) {
		r.err = fmt.Errorf("a selection of %d bytes", n)
	}
	b := r.take(n)
	if r.err != nil {
		return 0
	}
	if n == 4 && b[3] != 0 {
		r.err = errors.New("a selection of registers that do not exist")
	}
	return Selection(b[0]) | Selection(b[1])<<8 | Selection(b[2])<<16
}

// end refuses what is left over.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.err = fmt.Errorf("%d bytes too many", len(r.b))
	}
	return r.err
}
