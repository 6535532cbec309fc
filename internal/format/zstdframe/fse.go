// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package zstdframe

import "math/bits"

// Finite state entropy coding (RFC 8878, section 4.1).

// distribution says how often each symbol is expected, in parts of 1<<log;
// -1: less than once.
type distribution struct {
	counts []int16
	log    int
}

// readDistribution reads a table's description, and returns its length as well.
func readDistribution(b []byte, maxLog, maxSymbol int) (d distribution, used int, err error) {
	if len(b) == 0 {
		return d, 0, errDamaged
	}
	padded := append(append(make([]byte, 0, 96), b[:min(len(b), 80)]...), make([]byte, padding)...)
	limit, at := 8*min(len(b), 80), 4
	read := func(n int) int {
		if at > limit {
			return 0
		}
		return int(little.Uint64(padded[at>>3:]) >> (at & 7) & (1<<n - 1))
	}
	if d.log = int(b[0]&15) + 5; d.log > maxLog {
		return d, 0, errDamaged
	}
	for left := 1 << d.log; left > 0; {
		n := bits.Len(uint(left + 1))
		v, low := read(n), 1<<(n-1)-1
		spare := 1<<n - 2 - left
		at += n
		if v&low < spare {
			v &= low
			at--
		} else if v > low {
			v -= spare
		}
		d.counts = append(d.counts, int16(v-1))
		left -= max(v-1, 1-v)
		for again := v == 1; again; at += 2 {
			zeros := read(2)
			d.counts = append(d.counts, make([]int16, zeros)...)
			again = zeros == 3
			if len(d.counts) > maxSymbol+1 {
				return d, 0, errDamaged
			}
		}
		if left < 0 || at > limit || len(d.counts) > maxSymbol+1 {
			return d, 0, errDamaged
		}
	}
	return d, (at + 7) / 8, nil
}

// spread lays the symbols out over the states.
func (d distribution) spread() []uint8 {
	size := 1 << d.log
	symbols, high := make([]uint8, size), size-1
	for s, n := range d.counts {
		if n == -1 {
			symbols[high] = uint8(s)
			high--
		}
	}
	at, step, mask := 0, size>>1+size>>3+3, size-1
	for s, n := range d.counts {
		for range n {
			symbols[at] = uint8(s)
			for at = (at + step) & mask; at > high; {
				at = (at + step) & mask
			}
		}
	}
	return symbols
}

// fseState is what a decoder does in a state.
type fseState struct {
	next         uint16
	symbol, bits uint8
}

// decoder is the table for reading.
func (d distribution) decoder() []fseState {
	next := make([]int, len(d.counts))
	for s, n := range d.counts {
		next[s] = max(int(n), 1)
	}
	table := make([]fseState, 1<<d.log)
	for i, s := range d.spread() {
		n := next[s]
		next[s]++
		wide := d.log + 1 - bits.Len(uint(n))
		table[i] = fseState{next: uint16(n<<wide - 1<<d.log), symbol: s, bits: uint8(wide)}
	}
	return table
}

// fseEncoder is the table for writing. States are counted from 1<<log.
type fseEncoder struct {
	log     int
	states  []uint16 // by symbol, and by what is left of the state before
	symbols []fseSymbol
}

// fseSymbol says of a symbol how many states it has, and where they begin, less that count.
type fseSymbol struct{ first, count int }

func (d distribution) encoder() *fseEncoder {
	e := &fseEncoder{log: d.log, states: make([]uint16, 1<<d.log), symbols: make([]fseSymbol, len(d.counts))}
	next, sum := make([]int, len(d.counts)), 0
	for s, n := range d.counts {
		count := int(n)
		if n == -1 {
			count = 1
		}
		next[s], e.symbols[s] = sum, fseSymbol{sum - count, count}
		sum += count
	}
	for i, s := range d.spread() {
		e.states[next[s]] = uint16(1<<d.log + i)
		next[s]++
	}
	return e
}

// bitsOut is how many bits leave a state before it can become one of the symbol: as many
// as bring it below twice the symbol's count.
func (s fseSymbol) bitsOut(state int) int {
	n := bits.Len(uint(state)) - bits.Len(uint(s.count))
	if n > 0 && state>>n < s.count {
		n--
	}
	return max(n, 0)
}

// start is the state to begin with. Any of the symbol's would be right; this is the one that
// libzstd takes, which wants few bits to leave later.
func (e *fseEncoder) start(symbol uint8) int {
	s := e.symbols[symbol]
	wide := e.log
	if s.count > 1 {
		wide += 1 - bits.Len(uint(s.count-1))
	}
	margin := wide<<16 - s.count<<wide
	n := (margin + 1<<15) >> 16
	return int(e.states[(n<<16-margin)>>n+s.first])
}

// step writes what leaves the state, and returns the next one.
func (e *fseEncoder) step(w *bitWriter, state int, symbol uint8) int {
	s := e.symbols[symbol]
	n := s.bitsOut(state)
	w.write(uint64(state), n)
	return int(e.states[state>>n+s.first])
}
