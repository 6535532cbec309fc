// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package zstdframe

import "math/bits"

// Huffman coding of literals (RFC 8878, section 4.2).

const maxCodeBits = 11

// huffman is a code: the length of each symbol's word, and the word.
type huffman struct {
	lengths [256]uint8
	words   [256]uint16
	log     int
	table   []huffmanEntry // by the next log bits
}

type huffmanEntry struct{ symbol, bits uint8 }

// readHuffman reads a tree's description, and returns its length as well.
func readHuffman(b []byte) (*huffman, int, error) {
	if len(b) == 0 {
		return nil, 0, errDamaged
	}
	var weights []uint8
	used := 1
	if n := int(b[0]); n >= 128 {
		n -= 127
		if used += (n + 1) / 2; used > len(b) {
			return nil, 0, errDamaged
		}
		for i := range n {
			weights = append(weights, b[1+i/2]>>(4*(1-i&1))&15)
		}
	} else {
		if used += n; used > len(b) {
			return nil, 0, errDamaged
		}
		var err error
		if weights, err = readWeights(b[1:used]); err != nil {
			return nil, 0, err
		}
	}
	h, err := newHuffman(weights)
	return h, used, err
}

// readWeights reads weights that two states hold in turn.
func readWeights(b []byte) ([]uint8, error) {
	const maxLog, maxWeight, maxWeights = 6, 12, 255
	d, used, err := readDistribution(b, maxLog, maxWeight)
	if err != nil {
		return nil, err
	}
	r, _, err := newBackward(b[used:], nil)
	if err != nil {
		return nil, err
	}
	table := d.decoder()
	states := [2]uint64{r.read(d.log), r.read(d.log)}
	if r.at < 0 {
		return nil, errDamaged
	}
	var weights []uint8
	for i := 0; ; i ^= 1 {
		s := table[states[i]]
		weights = append(weights, s.symbol)
		states[i] = uint64(s.next) + r.read(int(s.bits))
		if r.at < 0 { // this state is one too many: the other one's symbol is the last
			weights = append(weights, table[states[i^1]].symbol)
			break
		}
		if len(weights) > maxWeights {
			break
		}
	}
	if len(weights) > maxWeights {
		return nil, errDamaged
	}
	return weights, nil
}

// newHuffman makes the code of weights, of which the last one is left out because it follows from the others.
func newHuffman(weights []uint8) (*huffman, error) {
	sum := 0
	for _, w := range weights {
		if w > maxCodeBits+1 {
			return nil, errDamaged
		}
		sum += 1 << w >> 1
	}
	log := bits.Len(uint(sum))
	last := 1<<log - sum
	if sum == 0 || log > maxCodeBits || last&(last-1) != 0 || len(weights) > 255 {
		return nil, errDamaged
	}
	weights = append(weights, uint8(bits.Len(uint(last))))
	h := &huffman{log: log, table: make([]huffmanEntry, 0, 1<<log)}
	for weight := 1; weight <= log; weight++ { // the longest words are the lowest
		for s, w := range weights {
			if int(w) != weight {
				continue
			}
			n := log + 1 - weight
			h.lengths[s], h.words[s] = uint8(n), uint16(len(h.table)>>(weight-1))
			for range 1 << (weight - 1) {
				h.table = append(h.table, huffmanEntry{uint8(s), uint8(n)})
			}
		}
	}
	return h, nil
}

// decode reads len(dst) symbols from a stream that holds just these.
func (h *huffman) decode(dst, stream, room []byte) ([]byte, error) {
	r, room, err := newBackward(stream, room)
	if err != nil {
		return room, err
	}
	for i := range dst {
		e := h.table[r.peek(h.log)]
		r.at -= int(e.bits)
		dst[i] = e.symbol
	}
	if r.at != 0 {
		return room, errDamaged
	}
	return room, nil
}

// encode appends the stream of literals. Symbols that have no word are an error.
func (h *huffman) encode(dst, literals []byte) ([]byte, error) {
	w := bitWriter{b: dst}
	for i := len(literals) - 1; i >= 0; i-- {
		n := h.lengths[literals[i]]
		if n == 0 {
			return dst, errChoices
		}
		w.write(uint64(h.words[literals[i]]), int(n))
	}
	return w.close(), nil
}
