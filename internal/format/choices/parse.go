// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package choices

import (
	"encoding/binary"
	"io"
	"sort"

	"wherry.example/wherry/internal/format/zstdframe"
)

// Parse is how an old frame was packed: where matches are in its content. It lies in a
// file, because there are millions; of each group the beginning is in memory.
type Parse struct {
	r      io.ReaderAt
	offset int64 // in r
	count  int64
	begins []int64 // of each group, in the content
	end    int64

	group []match // the last one that was asked for
	now   int     // which
	next  int     // where in it the last answer was
	err   error
}

// match is bytes that were written as a copy of those a distance before.
type match struct{ start, bytes, distance int64 }

func (m match) end() int64 { return m.start + m.bytes }

// A record is a number of 8 bytes: literals, the match behind them (2 less; 0: none), its distance.
const (
	RecordBytes  = 8
	lengthBits   = 17
	distanceBits = 30
	groupSize    = 512
)

func record(literals, match, distance uint64) uint64 {
	if match > 0 {
		match -= 2
	}
	return literals | match<<lengthBits | distance<<(2*lengthBits)
}

// recorder makes a Parse.
type recorder struct {
	to   File
	p    *Parse
	max  int64
	b    []byte
	full error
}

func newRecorder(to File, offset, limit int64) *recorder {
	return &recorder{to: to, max: limit, p: &Parse{r: to, offset: offset, now: -1}}
}

// add appends a record. Runs of literals that are too long for one take several.
func (r *recorder) add(literals, match, distance int64) {
	const most = 1<<lengthBits - 1
	for ; literals > most; literals -= most {
		r.one(most, 0, 0)
	}
	if literals+match > 0 {
		r.one(literals, match, distance)
	}
}

func (r *recorder) one(literals, match, distance int64) {
	if r.p.count == r.max || distance >= 1<<distanceBits {
		r.full = errLimit
		return
	}
	if r.p.count%groupSize == 0 {
		r.p.begins = append(r.p.begins, r.p.end)
	}
	r.p.count++
	r.p.end += literals + match
	if r.b = binary.LittleEndian.AppendUint64(r.b, record(uint64(literals), uint64(match), uint64(distance))); len(r.b) >= 64<<10 {
		r.flush()
	}
}

func (r *recorder) flush() {
	at := r.p.offset + RecordBytes*r.p.count - int64(len(r.b))
	if _, err := r.to.WriteAt(r.b, at); err != nil && r.full == nil {
		r.full = err
	}
	r.b = r.b[:0]
}

// close returns what was recorded.
func (r *recorder) close() (*Parse, error) {
	r.flush()
	return r.p, r.full
}

// Records is how many there are.
func (p *Parse) Records() int64 { return p.count }

// find returns the match that holds a place of the content, or else the next one.
func (p *Parse) find(at int64) (match, bool) {
	if at < 0 || at >= p.end {
		return match{}, false
	}
	if p.now < 0 || at < p.begins[p.now] || p.now+1 < len(p.begins) && at >= p.begins[p.now+1] {
		p.load(sort.Search(len(p.begins), func(i int) bool { return p.begins[i] > at }) - 1)
	}
	for p.next > 0 && p.group[p.next-1].end() > at {
		p.next--
	}
	for ; p.next < len(p.group); p.next++ {
		if m := p.group[p.next]; m.bytes > 0 && m.end() > at {
			return m, true
		}
	}
	p.next = 0
	return match{}, false // literals to the group's end: the next match is not asked for
}

func (p *Parse) load(group int) {
	p.now, p.next, p.group = group, 0, p.group[:0]
	var b [groupSize * RecordBytes]byte
	from := int64(group) * groupSize
	part := b[:RecordBytes*min(groupSize, p.count-from)]
	if n, err := p.r.ReadAt(part, p.offset+RecordBytes*from); n < len(part) {
		p.err = err
	}
	at := p.begins[group]
	for ; len(part) > 0; part = part[RecordBytes:] {
		v := binary.LittleEndian.Uint64(part)
		m := match{start: at + int64(v&(1<<lengthBits-1)), bytes: int64(v >> lengthBits & (1<<lengthBits - 1)), distance: int64(v >> (2 * lengthBits))}
		if m.bytes > 0 {
			m.bytes += 2
		}
		p.group = append(p.group, m)
		at = m.end()
	}
}

// block takes in the sequences of a block.
func (r *recorder) block(b *zstdframe.Block) {
	rest := int64(b.Bytes)
	for _, s := range b.Sequences {
		r.add(int64(s.Literals), int64(s.Match), int64(s.Distance))
		rest -= int64(s.Literals) + int64(s.Match)
	}
	r.add(rest, 0, 0)
}
