// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package choices

import "encoding/binary"

// finder knows where in the last part of the content the next bytes were before.
type finder struct {
	p      *pages
	at     int64    // what begins before is known
	threes []uint32 // the last place of three bytes; places are one higher, so that zero is none
	heads  []uint32 // the last place of four bytes
	before []uint32 // the place before that, of each place in the window
}

const (
	threeBits  = 18
	headBits   = 20
	windowBits = 22
	maxSteps   = 128
)

func newFinder(p *pages) *finder {
	return &finder{p: p, threes: make([]uint32, 1<<threeBits), heads: make([]uint32, 1<<headBits), before: make([]uint32, 1<<windowBits)}
}

func hash4(v uint32) uint32 { return v * 2654435761 >> (32 - headBits) }
func hash3(v uint32) uint32 { return v << 8 * 506832829 >> (32 - threeBits) }

// four returns the four bytes at a place, zeros behind the end.
func (f *finder) four(at int64) uint32 {
	b := f.p.from(at)
	if len(b) >= 4 {
		return binary.LittleEndian.Uint32(b)
	}
	var v uint32
	for i := range int64(4) {
		if at+i < f.p.size {
			if b := f.p.from(at + i); len(b) > 0 {
				v |= uint32(b[0]) << (8 * i)
			}
		}
	}
	return v
}

// learn takes in what begins before a place.
func (f *finder) learn(to int64) {
	for ; f.at < to; f.at++ {
		v := f.four(f.at)
		k := hash4(v)
		f.before[f.at&(1<<windowBits-1)] = f.heads[k]
		f.heads[k] = uint32(f.at + 1)
		f.threes[hash3(v)] = uint32(f.at + 1)
	}
}

// found is a match.
type found struct {
	distance int64
	length   int
}

// find lists matches at a place, nearest first, each longer than the one before.
func (f *finder) find(at int64, limit int, list []found) []found {
	f.learn(at)
	list = list[:0]
	v, best := f.four(at), shortest-1
	try := func(place int64, limit int) {
		if n := f.p.common(place, f.p, at, limit); n > best {
			best = n
			list = append(list, found{at - place, n})
		}
	}
	if place := int64(f.threes[hash3(v)]) - 1; place >= 0 {
		try(place, shortest)
	}
	place := int64(f.heads[hash4(v)]) - 1
	for range maxSteps {
		if place < 0 || at-place > 1<<windowBits || best >= limit {
			break
		}
		try(place, limit)
		next := int64(f.before[place&(1<<windowBits-1)]) - 1
		if next >= place { // overwritten since
			break
		}
		place = next
	}
	return list
}
