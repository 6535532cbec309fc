// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package choices

import (
	"encoding/binary"
	"io"
	"math/bits"
)

// pages reads content at random through a small cache, so that it need not be in
// memory. After an error what could not be read is empty.
type pages struct {
	r     io.ReaderAt
	size  int64
	slots []page
	err   error
	// budget is how many bytes may still be compared: hostile content would have all of it compared with
	// all. Without it nothing is equal any more. Both sides compare the same.
	budget int64
}

type page struct {
	number int64 // 1 more than it; 0: empty
	b      []byte
}

const pageBits = 14

// newPages has that many slots, a power of two, of 16 KB each.
func newPages(r io.ReaderAt, size int64, slots int) *pages {
	return &pages{r: r, size: size, slots: make([]page, slots)}
}

// from returns the content at a place up to the end of its page.
func (p *pages) from(at int64) []byte {
	n := at >> pageBits
	s := &p.slots[int(n)&(len(p.slots)-1)]
	if s.number != n+1 {
		p.load(s, n)
	}
	return s.b[min(int(at&(1<<pageBits-1)), len(s.b)):]
}

func (p *pages) load(s *page, n int64) {
	begin := n << pageBits
	if s.b == nil {
		s.b = make([]byte, 1<<pageBits)
	}
	s.number, s.b = n+1, s.b[:max(0, min(1<<pageBits, p.size-begin))]
	if k, err := p.r.ReadAt(s.b, begin); k < len(s.b) {
		s.b = s.b[:0]
		if p.err == nil {
			p.err = err
		}
	}
}

// common is how many bytes agree at a of p and b of o, limit at most.
func (p *pages) common(a int64, o *pages, b int64, limit int) int {
	n := 0
	for n < limit && p.budget > 0 {
		x, y := p.from(a+int64(n)), o.from(b+int64(n))
		part := min(len(x), len(y), limit-n)
		if part == 0 {
			break
		}
		same := prefix(x[:part], y[:part])
		n += same
		p.budget -= int64(same) + 8
		if same < part {
			break
		}
	}
	return n
}

// prefix is how many bytes agree of two slices of one length.
func prefix(x, y []byte) int {
	i := 0
	for ; i+8 <= len(x); i += 8 {
		if d := binary.LittleEndian.Uint64(x[i:]) ^ binary.LittleEndian.Uint64(y[i:]); d != 0 {
			return i + bits.TrailingZeros64(d)/8
		}
	}
	for ; i < len(x) && x[i] == y[i]; i++ {
	}
	return i
}
