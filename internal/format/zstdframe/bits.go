// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package zstdframe

import (
	"encoding/binary"
	"math/bits"
)

var little = binary.LittleEndian

// backward reads bits from the end of a stream to its beginning (RFC 8878,
// section 4.1). Behind the beginning everything reads as zero, and at is negative.
type backward struct {
	b  []byte // the stream, and eight bytes more
	at int    // bits that are left
}

// padding is what must be behind the bytes of a backward stream, so that eight
// bytes can be read anywhere in it.
const padding = 8

// newBackward begins to read stream. Its last byte holds a one, above which nothing counts.
func newBackward(stream, room []byte) (backward, []byte, error) {
	if len(stream) == 0 || stream[len(stream)-1] == 0 {
		return backward{}, room, errDamaged
	}
	room = append(append(room[:0], stream...), make([]byte, padding)...)
	return backward{room, 8*len(stream) - 9 + bits.Len8(stream[len(stream)-1])}, room, nil
}

// read reads n bits, 56 at most.
func (r *backward) read(n int) uint64 {
	if r.at -= n; r.at < 0 {
		if r.at+n <= 0 {
			return 0
		}
		return little.Uint64(r.b) & (1<<(r.at+n) - 1) << -r.at & (1<<n - 1)
	}
	return little.Uint64(r.b[r.at>>3:]) >> (r.at & 7) & (1<<n - 1)
}

// peek is read without going on.
func (r *backward) peek(n int) uint64 {
	at := r.at
	v := r.read(n)
	r.at = at
	return v
}

// bitWriter appends bits, lowest first.
type bitWriter struct {
	b    []byte
	have uint64
	n    int
}

// write appends the low n bits of v, 32 at most.
func (w *bitWriter) write(v uint64, n int) {
	w.have |= v & (1<<n - 1) << w.n
	w.n += n
	for w.n >= 8 {
		w.b = append(w.b, byte(w.have))
		w.have >>= 8
		w.n -= 8
	}
}

// close ends a stream that is to be read backwards, by a one.
func (w *bitWriter) close() []byte {
	w.write(1, 1)
	if w.n > 0 {
		w.b = append(w.b, byte(w.have))
	}
	w.have, w.n = 0, 0
	return w.b
}
