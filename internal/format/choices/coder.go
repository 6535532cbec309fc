// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package choices

import (
	"bufio"
	"io"
	"math/bits"
)

// chance is how probable a one is, in two estimates: one that learns fast and one that learns
// well. Zero is one half: values count from there.
type chance struct{ fast, slow int16 }

const (
	fastShift = 4
	slowShift = 7
)

// of65536 is the chance of a one.
func (c chance) of65536() uint64 {
	return uint64(max(32, min(65536-32, 32768+(int(c.fast)+int(c.slow)))))
}

func (c *chance) learn(bit int) {
	goal := -16384
	if bit == 1 {
		goal = 16383
	}
	c.fast += int16((goal - int(c.fast)) >> fastShift)
	c.slow += int16((goal - int(c.slow)) >> slowShift)
}

// coder is an adaptive binary arithmetic coder in one of two directions: with in it
// reads bits, else it writes them. So one program tells what the stream holds, for both sides.
type coder struct {
	low, high uint32
	code      uint32
	in        *bufio.Reader
	out       []byte
	missing   int // bytes that were read behind the end of in
}

func newWriter() *coder { return &coder{high: 1<<32 - 1} }

func newReader(r io.Reader) *coder {
	c := &coder{high: 1<<32 - 1, in: bufio.NewReader(r)}
	for range 4 {
		c.code = c.code<<8 | c.next()
	}
	return c
}

// next reads a byte; behind the end zeros, a few of which the writer has left out.
func (c *coder) next() uint32 {
	b, err := c.in.ReadByte()
	if err != nil {
		c.missing++
		return 0
	}
	return uint32(b)
}

// ended tells whether what is read now can't have been written.
func (c *coder) ended() bool { return c.missing > 4 }

// bit writes the bit, or reads one and returns it.
func (c *coder) bit(p *chance, bit int) int {
	mid := c.low + uint32(uint64(c.high-c.low)*p.of65536()>>16)
	if c.in != nil {
		bit = 0
		if c.code <= mid {
			bit = 1
		}
	}
	if bit == 1 {
		c.high = mid
	} else {
		c.low = mid + 1
	}
	p.learn(bit)
	for (c.low^c.high)>>24 == 0 {
		if c.in != nil {
			c.code = c.code<<8 | c.next()
		} else {
			c.out = append(c.out, byte(c.low>>24))
		}
		c.low, c.high = c.low<<8, c.high<<8|255
	}
	return bit
}

// flag is bit for a truth.
func (c *coder) flag(p *chance, is bool) bool {
	bit := 0
	if is {
		bit = 1
	}
	return c.bit(p, bit) == 1
}

// symbol codes one of len(tree) symbols, a power of two.
func (c *coder) symbol(tree []chance, v int) int {
	node := 1
	for i := bits.Len(uint(len(tree))) - 2; i >= 0; i-- {
		node = node<<1 | c.bit(&tree[node], v>>i&1)
	}
	return node - len(tree)
}

// numbers is the model of a number of up to 31 bits: how many bits it has, and the highest of them.
type numbers struct {
	widths [32]chance
	values [32][8]chance
	plain  chance
}

func (c *coder) number(m *numbers, v int) int {
	v++
	n := c.symbol(m.widths[:], bits.Len(uint(v))-1)
	got, node := 1, 1
	for i := n - 1; i >= 0; i-- {
		var b int
		if node < 8 {
			b = c.bit(&m.values[n][node], v>>i&1)
			node = node<<1 | b
		} else {
			var even chance
			b = c.bit(&even, v>>i&1)
		}
		got = got<<1 | b
	}
	return got - 1
}

// close returns what was written.
func (c *coder) close() []byte {
	return append(c.out, byte(c.high>>24), byte(c.high>>16), byte(c.high>>8), byte(c.high))
}
