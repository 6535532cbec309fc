// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package choices

import (
	"io"
	"sort"
)

// Move is a run of old bytes that became a run of new ones.
type Move struct{ Old, New, Bytes int64 }

// Past is what both sides know before the first choice: the old content and the new one, how
// the old one was packed, and what went where.
type Past struct {
	Old, New           io.ReaderAt
	OldBytes, NewBytes int64
	Parse              *Parse
	// Moves are by their new place, Back by their old one; those of Back do not overlap.
	Moves, Back []Move
}

// past answers questions about places.
type past struct {
	Past
	now int // the move of the last answer
}

// old returns where a new place was. It is not certain where nothing was moved to.
func (p *past) old(at int64) (q int64, certain bool) {
	m := p.Moves
	if i := p.now; i >= len(m) || m[i].New > at || i+1 < len(m) && m[i+1].New <= at {
		if i = sort.Search(len(m), func(i int) bool { return m[i].New > at }) - 1; i < 0 {
			return 0, false
		}
		p.now = i
	}
	r := m[p.now]
	return at - r.New + r.Old, at < r.New+r.Bytes
}

// moved returns where an old place went, as far as one can tell.
func (p *past) moved(at int64) int64 {
	i := sort.Search(len(p.Back), func(i int) bool { return p.Back[i].Old > at }) - 1
	if i < 0 {
		return at
	}
	return at - p.Back[i].Old + p.Back[i].New
}
