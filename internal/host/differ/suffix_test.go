// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package differ

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"wherry.example/wherry/internal/format/delta"
)

func texts() [][]byte {
	r := rand.New(rand.NewPCG(1, 2))
	all := [][]byte{nil, {0}, {255, 0}, []byte("mississippi"), bytes.Repeat([]byte("ab"), 300), make([]byte, 500), []byte("abcabcabcxabcabd")}
	for n := range 200 {
		b := make([]byte, r.IntN(400))
		for i := range b {
			b[i] = byte(r.IntN(1 + n%7))
		}
		all = append(all, b)
	}
	return all
}

// TestSuffixes compares with sorting them one by one.
func TestSuffixes(t *testing.T) {
	for _, text := range texts() {
		want := make([]int32, len(text))
		for i := range want {
			want[i] = int32(i)
		}
		slices.SortFunc(want, func(a, b int32) int { return bytes.Compare(text[a:], text[b:]) })
		if got := suffixes(text); !slices.Equal(got, want) {
			t.Fatalf("%q: %v, want %v", text, got, want)
		}
	}
}

// TestAlign: what the controls say adds up to the new bytes.
func TestAlign(t *testing.T) {
	all := texts()
	for i, old := range all {
		data := slices.Concat(old[len(old)/2:], all[(i+1)%len(all)], old[:len(old)/2])
		o := 0
		var made []byte
		for _, c := range align(old, data) {
			made = append(made, old[o:o+int(c.Copy)]...)
			made = append(made, make([]byte, c.Extra)...)
			o += int(c.Copy + c.Seek)
			if o < 0 || o > len(old) {
				t.Fatalf("%q to %q: leads to %d", old, data, o)
			}
		}
		if len(made) != len(data) {
			t.Fatalf("%q to %q: %d bytes", old, data, len(made))
		}
	}
}

// TestAlignFinds what was inserted, and nothing else.
func TestAlignFinds(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	old := make([]byte, 100_000)
	for i := range old {
		old[i] = byte(r.Uint32())
	}
	data := slices.Concat(old[:30_000], []byte("something new"), old[30_000:])
	data[70_000]++
	var copied, extra int64
	controls := align(old, data)
	for _, c := range controls {
		copied, extra = copied+c.Copy, extra+c.Extra
	}
	if len(controls) != 2 || extra != 13 || copied != 100_000 {
		t.Errorf("%d entries, %d copied, %d extra: %v", len(controls), copied, extra, controls[:min(5, len(controls))])
	}
	var _ []delta.Control = controls
}
