// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package delta

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// moved20 is an object of which all from byte 64 on has moved by 20, in memory as well.
func moved20(t *testing.T, rules ...Rule) *Predictor {
	t.Helper()
	p, err := NewPredictor(Prediction{
		Old: []Segment{{0, 0x1000, 1000}}, New: []Segment{{0, 0x1000, 1020}},
		Blank: []Blank{{0x2000, 0x2040, 0x100}}, Rules: rules,
	}, []Control{{Copy: 64, Extra: 20}, {Copy: 936}}, bytes.NewReader(make([]byte, 1000)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPredictions(t *testing.T) {
	code := Rule{Kind: Code, Range: Range{0, 1000}}
	words := Rule{Kind: Words, Range: Range{0, 1000}}
	relative := Rule{Kind: Relative, Range: Range{4, 1000}, Stride: 12}
	missing := Rule{Kind: Missing, Range: Range{4, 1000}, OldBases: []int64{0x1000}, NewBases: []int64{0x1000}}
	ranks := Rule{Kind: Ranks, Range: Range{4, 1000}, OldBases: []int64{0x1004}, NewBases: []int64{0x1004}}
	table := Rule{Kind: Table, Range: Range{4, 1000}, Stride: 8, Limit: 0x300, OldBases: []int64{0x1000}, NewBases: []int64{0x1000}}
	for name, c := range map[string]struct {
		rule      Rule
		at, to    int64
		old, want string
	}{
		"call over the new bytes":     {code, 0, 0, "e8fb000000", "e80f010000"},
		"call within what stayed":     {code, 0, 0, "e810000000", "e810000000"},
		"call within what moved":      {code, 100, 120, "e810000000", "e810000000"},
		"jump back over them":         {code, 100, 120, "0f84c4ffffff", "0f84b0ffffff"},
		"operand":                     {code, 0, 0, "488b05f9000000", "488b050d010000"},
		"operand in blank memory":     {code, 0, 0, "488b05f90f0000", "488b0539100000"},
		"call to elsewhere":           {code, 0, 0, "e8fbffff0f", "e8fbffff0f"},
		"no operand":                  {code, 0, 0, "909005f9000000", "909005f9000000"},
		"cut off":                     {code, 0, 0, "e8fb0000", "e8fb0000"},
		"word":                        {words, 8, 8, "6410000000000000", "7810000000000000"},
		"word that is not aligned":    {words, 9, 9, "006410000000000000", "006410000000000000"},
		"word before the new bytes":   {words, 8, 8, "3f10000000000000", "3f10000000000000"},
		"word that is no address":     {words, 8, 8, "64100000000000ff", "64100000000000ff"},
		"offset of a table":           {table, 4, 4, "6400000064000000", "7800000064000000"},
		"offset later in the table":   {table, 8, 8, "6400000064000000", "6400000078000000"},
		"offset beyond what is one":   {table, 4, 4, "0103000000000000", "0103000000000000"},
		"distance from its place":     {relative, 16, 16, "6000000060000000", "7400000060000000"},
		"distance that moved as well": {relative, 100, 120, "6000000060000000", "6000000060000000"},
		"missing to what moved":       {missing, 4, 4, "9bffffff64000000", "87ffffff64000000"},
		"missing to what stayed":      {missing, 4, 4, "efffffff", "efffffff"},
		"number of an entry":          {ranks, 4, 4, "000019000002", "00001e000002"},
		"outside of the rule's range": {table, 0, 0, "64000000", "64000000"},
	} {
		b := unhex(t, c.old)
		moved20(t, c.rule).correct(b, c.at, c.to)
		if diff := cmp.Diff(c.want, hex.EncodeToString(b)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestMoves: where runs overlap, the longer one tells.
func TestMoves(t *testing.T) {
	for name, c := range map[string]struct {
		controls []Control
		want     []move
	}{
		"short runs say nothing":           {[]Control{{Copy: 23}, {Copy: 24}}, []move{{23, 23, 24}}},
		"one inside the other":             {[]Control{{Copy: 100, Seek: -70}, {Copy: 30}}, []move{{0, 0, 100}}},
		"a longer one from the same place": {[]Control{{Copy: 30, Seek: -30}, {Copy: 50}}, []move{{0, 30, 50}}},
		"a longer one later":               {[]Control{{Copy: 50, Seek: -20}, {Copy: 100}}, []move{{0, 0, 30}, {30, 50, 100}}},
		"a shorter one later":              {[]Control{{Copy: 100, Seek: -20}, {Copy: 60}}, []move{{0, 0, 100}, {100, 120, 40}}},
	} {
		if diff := cmp.Diff(c.want, movesOf(c.controls), cmp.AllowUnexported(move{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// FuzzPredictor: no rule makes the correction fail, and what Add made Apply takes back.
func FuzzPredictor(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x81 a kernel's words, which are negative, and long enough to be a run"), uint8(Kernel), int64(-0x7f000000), int64(7), int64(3))
	f.Add([]byte("\xe8\x00\x01\x00\x00some old bytes that are long enough to be a run of them"), uint8(0), int64(0x1000), int64(7), int64(3))
	f.Fuzz(func(t *testing.T, old []byte, kind uint8, address, base, at int64) {
		if len(old) < 8 || len(old) > 1<<16 {
			return
		}
		n := int64(len(old))
		r := Rule{Kind: int(kind % (Ranks + 1)), Range: Range{max(0, at) % n, 0}, Stride: 4, Limit: maxObject}
		r.Bytes = n - r.Offset
		for i := range map[int]int64{Table: 1, GoFunc: goBases, Missing: 1, Ranks: 1}[r.Kind] {
			r.OldBases, r.NewBases = append(r.OldBases, base/4), append(r.NewBases, base/8+i)
		}
		if r.Kind != Table {
			r.Limit = 0
		}
		address = max(-maxAddress, min(address, maxAddress))
		p := Prediction{Old: []Segment{{0, address, n}}, New: []Segment{{0, address, n}}, Rules: []Rule{r}}
		controls := []Control{{Copy: n / 2, Extra: 3}, {Copy: n - n/2}}
		data := append(bytes.Clone(old[:n/2]), append([]byte("new"), old[n/2:]...)...)
		var s Streams
		if err := s.Add(p, controls, old, data); err != nil {
			t.Fatal(err)
		}
		recipe := Recipe{
			Unpack:  []Piece{{Kind: Stored, Bytes: n}},
			Objects: []Object{{Bytes: n + 3, Old: Range{0, n}, Controls: 2, Prediction: p}},
			Build:   []Step{{Kind: Plain, Range: Range{n, n + 3}}},
		}
		h := Header{Old: describe(old), New: describe(data), Scratch: 2*n + 3, Codec: "flate"}
		d, err := Encode(h, &recipe, s, LZMA)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := apply(t.Context(), old, d); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%v", err)
		}
	})
}
