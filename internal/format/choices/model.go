// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package choices

import (
	"errors"
	"math/bits"

	"wherry.example/wherry/internal/format/zstdframe"
)

// model asks for sequences. It knows the content, the old parse, and all sequences before.
type model struct {
	c       *coder
	past    *past
	data    *pages // new content
	old     *pages
	finder  *finder
	repeats zstdframe.Repeats
	// history holds of the last sequences whether they were as expected, a bit for each.
	history int
	list    []found

	// Old and new are equal from the last place asked for up to equalEnd, at that distance from each other.
	equalEnd, equalShift int64

	begins    [1 << 13]chance
	expected  [1 << 11]chance
	sources   [other][1 << 8]chance
	asBefore  [1 << 11]chance
	asFar     [1 << 11]chance
	explicit  [16]numbers
	distances numbers
	nearest   [64]chance
	odd       chance
	codes     numbers
}

// Pages of the new and the old content, and how often each byte may be compared on average.
const (
	newPagesCount = 1024
	oldPagesCount = 64
	comparisons   = 128
)

func newModel(c *coder, p Past) *model {
	m := &model{c: c, past: &past{Past: p}, repeats: zstdframe.NewRepeats()}
	m.data, m.old = newPages(p.New, p.NewBytes, newPagesCount), newPages(p.Old, p.OldBytes, oldPagesCount)
	m.data.budget = comparisons*p.NewBytes + 1<<20
	m.finder = newFinder(m.data)
	return m
}

// failed is what went wrong in reading.
func (m *model) failed() error {
	err := errors.Join(m.data.err, m.old.err, m.past.Parse.err)
	if m.c.ended() {
		err = errors.Join(err, errFormat)
	}
	return err
}

// Kinds of places in the old parse.
const (
	unknown = iota
	literal
	begin
	inside
)

// place is what is known of a place of the new content before anything is said.
type place struct {
	kind     int
	distance int64 // of the match that was there, as it would be now; 0: none
	bytes    int   // that are left of this match
	equal    int   // bytes from here on that are as they were, up to mostEqual
}

const mostEqual = 64

func (m *model) at(at int64) (p place) {
	q, certain := m.past.old(at)
	if !certain {
		return p
	}
	match, ok := m.past.Parse.find(q)
	if !ok {
		return p
	}
	p.equal = m.equal(at, q)
	switch {
	case match.start > q:
		p.kind = literal
		return p
	case match.start == q:
		p.kind = begin
	default:
		p.kind = inside
	}
	p.bytes = int(match.end() - q)
	p.distance = at - m.past.moved(q-match.distance)
	if p.distance < 0 || p.distance > at {
		p.distance = 0
	}
	return p
}

// equal counts bytes that are as they were, from a new and its old place on.
func (m *model) equal(at, q int64) int {
	if left := m.equalEnd - at; m.equalShift == at-q && left > 0 && left < mostEqual/2 {
		return int(left)
	}
	n := m.data.common(at, m.old, q, mostEqual)
	m.equalShift, m.equalEnd = at-q, at+int64(n)
	return n
}

// reach is how far a match from a distance before goes.
func (m *model) reach(at, distance int64, limit int) int {
	if distance <= 0 || distance > at {
		return 0
	}
	return m.data.common(at-distance, m.data, at, limit)
}

// situation builds the number of a context out of small numbers.
type situation int

func (c situation) with(v, bits int) situation { return c<<bits | situation(min(v, 1<<bits-1)) }

func (c situation) truth(is bool) situation {
	if is {
		return c<<1 | 1
	}
	return c << 1
}

func width(n int) int { return bits.Len(uint(max(n, 0))) }

// shortest is the least that a match has.
const shortest = 3

// sequence codes one from a place on, of a block that has room bytes left.
func (m *model) sequence(s *zstdframe.Sequence, at int64, room int) error {
	p, n := m.literals(s, at, room)
	if room-n < shortest {
		return errFormat
	}
	s.Literals = uint32(n)
	m.match(s, p, at+int64(n), room-n)
	if s.Match < shortest || int(s.Match) > room-n || s.Distance == 0 {
		return errFormat
	}
	code := m.repeats.Code(s.Distance, s.Literals)
	if m.c.flag(&m.odd, s.Code != code) {
		code = uint32(m.c.number(&m.codes, int(s.Code)))
	}
	s.Code = code
	m.repeats.Distance(code, s.Literals)
	return nil
}

// literals asks at each place whether the match begins there.
func (m *model) literals(s *zstdframe.Sequence, at int64, room int) (p place, n int) {
	for ; room-n >= shortest; n++ {
		p = m.at(at + int64(n))
		repeat := int64(m.repeats[0])
		if n == 0 {
			repeat = int64(m.repeats[1])
		}
		reach := m.reach(at+int64(n), repeat, 8)
		k := situation(p.kind).with(n, 2).with(width(p.equal), 3).with(reach, 3).with(m.history&7, 3)
		if m.c.flag(&m.begins[k], int(s.Literals) == n) {
			break
		}
	}
	return p, n
}

// Where a match may be from, in the order of questions.
const (
	mapped = iota // where the old one was from
	first         // the distances before
	second
	third
	other
)

// candidates are distances, and how far each reaches.
type candidates struct {
	distance [other]int64
	reach    [other]int
	expected int
}

func (m *model) candidates(p place, literals uint32, at int64, room int) (c candidates) {
	c.distance[mapped] = p.distance
	for i := range 3 {
		r := m.repeats
		c.distance[first+i] = int64(r.Distance(uint32(i+1), literals))
	}
	for i, d := range c.distance {
		if c.reach[i] = m.reach(at, d, room); c.reach[i] < shortest {
			c.reach[i] = 0
		}
		if i != mapped && d == p.distance {
			c.expected, c.reach[mapped] = i, 0
		}
	}
	if p.kind < begin {
		c.expected = first
	}
	return c
}

// relation compares what a match would reach with how long it was.
func (c candidates) relation(p place) int {
	e := c.reach[c.expected]
	switch {
	case p.kind < begin:
		return min(width(e), 7)
	case e == 0:
		return 0
	case e < p.bytes:
		return 1
	case e == p.bytes:
		return 2
	}
	return 3
}

// ahead tells how much behind the old match is as it was.
func (p place) ahead() int {
	switch {
	case p.equal >= mostEqual:
		return 3
	case p.equal > p.bytes+8:
		return 2
	case p.equal > p.bytes:
		return 1
	}
	return 0
}

// match asks for distance and length.
func (m *model) match(s *zstdframe.Sequence, p place, at int64, room int) {
	c := m.candidates(p, s.Literals, at, room)
	k := situation(p.kind).with(c.relation(p), 3).with(p.ahead(), 2).with(m.history&7, 3).truth(c.expected != mapped)
	source := c.expected
	usual := c.reach[source] > 0 && m.c.flag(&m.expected[k], int64(s.Distance) == c.distance[source])
	if !usual {
		source = m.source(s, p, c)
	}
	if source == other {
		m.list = m.finder.find(at, room, m.list)
		limit := 0
		if n := len(m.list); n > 0 {
			limit = m.list[n-1].length
		}
		s.Match = uint32(m.length(s, p, 0, limit, room))
		m.distance(s)
	} else {
		s.Distance = uint32(c.distance[source])
		kind := 2
		if usual {
			kind = 1
		}
		s.Match = uint32(m.length(s, p, kind, c.reach[source], c.reach[source]))
	}
	m.history = m.history << 1 & 7
	if usual && p.kind == begin && int(s.Match) == p.bytes {
		m.history |= 1
	}
}

// source asks where a match is from that is not from where it was expected.
func (m *model) source(s *zstdframe.Sequence, p place, c candidates) int {
	for i, d := range c.distance {
		if c.reach[i] == 0 || i == c.expected {
			continue
		}
		k := situation(p.kind).with(width(c.reach[i]), 3).with(m.history&3, 2)
		if m.c.flag(&m.sources[i][k], int64(s.Distance) == d) {
			return i
		}
	}
	return other
}

// length asks how long a match is: as before, as far as it goes, or something else.
func (m *model) length(s *zstdframe.Sequence, p place, kind, limit, room int) int {
	before := p.kind >= begin && p.bytes >= shortest && p.bytes <= room
	if before {
		k := situation(kind).with(p.ahead(), 2).with(p.kind, 2).with(max(limit-p.bytes, -1)+1, 2).with(m.history&7, 3)
		if m.c.flag(&m.asBefore[k], int(s.Match) == p.bytes) {
			return p.bytes
		}
	}
	if limit >= shortest && !(before && limit == p.bytes) {
		k := situation(kind).with(width(limit), 3).with(p.kind, 2).with(p.ahead(), 2).truth(limit > p.bytes)
		if m.c.flag(&m.asFar[k], int(s.Match) == limit) {
			return limit
		}
	}
	return m.c.number(&m.explicit[min(width(limit), 7)<<1|kind&1], int(s.Match)-shortest) + shortest
}

// distance asks for one that is none of the candidates: nearly always that of the nearest match
// of this length.
func (m *model) distance(s *zstdframe.Sequence) {
	for _, f := range m.list {
		if f.length < int(s.Match) {
			continue
		}
		if m.c.flag(&m.nearest[min(int(s.Match), 63)], int64(s.Distance) == f.distance) {
			s.Distance = uint32(f.distance)
			return
		}
		break
	}
	s.Distance = uint32(m.c.number(&m.distances, int(s.Distance)))
}
