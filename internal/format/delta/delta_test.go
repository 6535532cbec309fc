// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package delta

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// flates is a codec that needs no C.
type flates struct{}

func (flates) Name() string { return "flate" }

func (flates) Unpack(frame []byte, size int64) ([]byte, error) {
	return io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(frame)), size))
}

func (flates) Pack(p Parameters, content []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, min(p.Level, 9))
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	err = w.Close()
	return out.Bytes(), err
}

// memory is a scratch file with a bound.
type memory struct{ b []byte }

func (m *memory) ReadAt(b []byte, at int64) (int, error) {
	return bytes.NewReader(m.b).ReadAt(b, at)
}

func (m *memory) WriteAt(b []byte, at int64) (int, error) {
	if need := int(at) + len(b); need > len(m.b) {
		if need > 8<<20 {
			return 0, errors.New("the disk is full")
		}
		m.b = append(m.b, make([]byte, need-len(m.b))...)
	}
	return copy(m.b[at:], b), nil
}

func frame(t testing.TB, content []byte) []byte {
	t.Helper()
	b, err := flates{}.Pack(Parameters{Level: 9}, content)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sample is a delta with every kind of step: in the old file two frames, and some bytes
// between them; in the new one the first frame, another content of the second, and other bytes.
type sample struct {
	old, data []byte
	header    Header
	recipe    Recipe
	streams   Streams
}

func newSample(t testing.TB) sample {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	first, second := make([]byte, 9000), make([]byte, 5000)
	for i := range first {
		first[i] = byte(r.IntN(4))
	}
	for i := range second {
		second[i] = byte(r.IntN(16))
	}
	changed := slices.Concat(second[:1000], []byte("new bytes"), second[1200:])
	changed[3000] += 7
	a, b, c := frame(t, first), frame(t, second), frame(t, changed)
	var s sample
	s.old = slices.Concat([]byte("head"), a, []byte("between"), b)
	s.data = slices.Concat([]byte("HEAD"), a, c, []byte("between"), second[10:20])
	s.recipe.Unpack = []Piece{
		{Kind: Frame, Offset: int64(4 + len(a) + 7), Bytes: int64(len(b)), Plain: 5000},
		{Kind: Stored, Offset: int64(4 + len(a)), Bytes: 7},
		{Kind: Repeated, Offset: 10, Bytes: 10},
	}
	controls := []Control{{Copy: 1000, Extra: 9, Seek: 200}, {Copy: 3800}}
	head := []Control{{Extra: 4}}
	s.recipe.Objects = []Object{{Bytes: 4809, Old: Range{0, 5000}, Controls: 2}, {Bytes: 4, Controls: 1}}
	if err := errors.Join(s.streams.Add(Prediction{}, controls, second, changed), s.streams.Add(Prediction{}, head, nil, []byte("HEAD"))); err != nil {
		t.Fatal(err)
	}
	s.recipe.Build = []Step{
		{Kind: Plain, Range: Range{5017 + 4809, 4}},
		{Kind: Copied, Range: Range{4, int64(len(a))}},
		{Kind: Packed, Range: Range{Bytes: int64(len(c))}, Parameters: Parameters{Level: 9}, Ranges: []Range{{5017, 2000}, {7017, 2809}}},
		{Kind: Plain, Range: Range{5000, 17}},
	}
	s.header = Header{Old: describe(s.old), New: describe(s.data), Scratch: 5017 + 4809 + 4, Codec: "flate"}
	return s
}

func describe(b []byte) File { return File{int64(len(b)), sha256.Sum256(b)} }

func (s sample) encode(t testing.TB) []byte {
	t.Helper()
	b, err := Encode(s.header, &s.recipe, s.streams, LZMA)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func apply(ctx context.Context, old, d []byte) ([]byte, error) {
	var out bytes.Buffer
	err := Apply(ctx, Job{
		Old: bytes.NewReader(old), OldBytes: int64(len(old)), Delta: bytes.NewReader(d), DeltaSize: int64(len(d)),
		Scratch: &memory{}, New: &out, Codec: flates{}, Limits: Limits{FileBytes: 1 << 20, ScratchBytes: 1 << 20},
	})
	return out.Bytes(), err
}

func TestApply(t *testing.T) {
	s := newSample(t)
	got, err := apply(t.Context(), s.old, s.encode(t))
	if err != nil || !bytes.Equal(got, s.data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

// TestEveryByteCounts changes each byte of a delta: what comes out is the new
// file or an error, and an error says that the delta is at fault.
func TestEveryByteCounts(t *testing.T) {
	s := newSample(t)
	d := s.encode(t)
	same := 0
	for i := range d {
		for _, bit := range []byte{1, 0x80} {
			broken := bytes.Clone(d)
			broken[i] ^= bit
			got, err := apply(t.Context(), s.old, broken)
			if err == nil {
				same++
				if !bytes.Equal(got, s.data) {
					t.Fatalf("byte %d: another file came out", i)
				}
			}
		}
	}
	if same > 40 { // LZMA's header and the end of its streams have bits of no meaning
		t.Errorf("%d of %d changes made no difference", same, 2*len(d))
	}
	for n := range d {
		if _, err := apply(t.Context(), s.old, d[:n]); err == nil {
			t.Fatalf("cut at byte %d of %d it worked", n, len(d))
		}
	}
}

// TestChosenRefused: a step that writes a frame by choices names an object made from all of the
// old frame's content, once.
func TestChosenRefused(t *testing.T) {
	base := func() Recipe {
		return Recipe{
			Unpack:  []Piece{{Kind: Large, Bytes: 10, Plain: 100, Records: 2}},
			Objects: []Object{{Bytes: 50, Old: Range{0, 100}, Controls: 1}},
			Build:   []Step{{Kind: Chosen, Range: Range{Bytes: 20}, Choices: 5}},
		}
	}
	for name, c := range map[string]struct {
		change func(*Recipe)
		want   error
	}{
		"as it should be":         {func(*Recipe) {}, nil},
		"no such object":          {func(r *Recipe) { r.Build[0].Object = 1 }, ErrFormat},
		"no such piece":           {func(r *Recipe) { r.Build[0].Piece = 1 }, ErrFormat},
		"of a part":               {func(r *Recipe) { r.Objects[0].Old = Range{0, 99} }, ErrFormat},
		"of something else":       {func(r *Recipe) { r.Unpack[0].Kind, r.Unpack[0].Plain = Stored, 0 }, ErrFormat},
		"more content than there": {func(r *Recipe) { r.Unpack[0].Plain = maxLarge + 1 }, ErrFormat},
	} {
		r := base()
		c.change(&r)
		_, err := parseRecipe(r.encode(), Header{Old: File{Bytes: 10}, New: File{Bytes: 20}, Scratch: 100 + 16 + 50})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	many := Recipe{Unpack: []Piece{{Kind: Large, Plain: maxLarge}}, Objects: []Object{{Bytes: maxLarge, Old: Range{0, maxLarge}, Controls: 1}}}
	many.Build = []Step{{Kind: Chosen}, {Kind: Chosen}}
	if _, err := parseRecipe(many.encode(), Header{Scratch: 2 * maxLarge}); !errors.Is(err, ErrFormat) {
		t.Errorf("the same object twice: %v", err)
	}
}

func TestRefused(t *testing.T) {
	change := func(do func(*sample)) func() ([]byte, []byte) {
		return func() ([]byte, []byte) {
			s := newSample(t)
			do(&s)
			return s.old, s.encode(t)
		}
	}
	for name, c := range map[string]struct {
		make func() ([]byte, []byte)
		want error
		text string
	}{
		"other old file":      {func() ([]byte, []byte) { s := newSample(t); s.old[0]++; return s.old, s.encode(t) }, ErrOld, "SHA-256"},
		"longer old file":     {func() ([]byte, []byte) { s := newSample(t); return append(s.old, 0), s.encode(t) }, ErrOld, "bytes"},
		"other codec":         {change(func(s *sample) { s.header.Codec = "zstd-9" }), ErrCodec, "zstd-9"},
		"other result":        {change(func(s *sample) { s.header.New.SHA256[0]++ }), ErrResult, ""},
		"too large":           {change(func(s *sample) { s.header.New.Bytes = 1<<20 + 1 }), ErrLimit, ""},
		"too much disk":       {change(func(s *sample) { s.header.Scratch = 1 << 21 }), ErrLimit, "disk"},
		"disk not told":       {change(func(s *sample) { s.header.Scratch-- }), ErrFormat, ""},
		"beyond the old file": {change(func(s *sample) { s.recipe.Unpack[1].Bytes = 1 << 19 }), ErrFormat, "recipe"},
		"from the future":     {change(func(s *sample) { s.recipe.Objects[0].Old.Bytes = 5018 }), ErrFormat, "recipe"},
		"before the file":     {change(func(s *sample) { s.recipe.Build[1].Offset = -1 }), ErrFormat, "recipe"},
		"half a file":         {change(func(s *sample) { s.recipe.Build = s.recipe.Build[:3] }), ErrFormat, "recipe"},
		"smaller frame":       {change(func(s *sample) { s.recipe.Build[2].Ranges[1].Bytes-- }), ErrResult, ""},
		"too few controls":    {change(func(s *sample) { s.recipe.Objects[0].Controls = 1 }), ErrFormat, "object 0"},
		"short difference":    {change(func(s *sample) { s.streams.Difference = s.streams.Difference[1:] }), ErrFormat, "object 0"},
		"short extra":         {change(func(s *sample) { s.streams.Extra = s.streams.Extra[:3] }), ErrFormat, "object 0"},
		"lying frame":         {change(func(s *sample) { s.recipe.Unpack[0].Plain = 5001; s.header.Scratch++ }), ErrFormat, ""},
		"nothing":             {func() ([]byte, []byte) { return nil, nil }, ErrFormat, ""},
	} {
		old, d := c.make()
		_, err := apply(t.Context(), old, d)
		if !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCancelled(t *testing.T) {
	s := newSample(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := apply(ctx, s.old, s.encode(t)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestRecipe: what is encoded is what is parsed, with every field in use.
func TestRecipe(t *testing.T) {
	s := newSample(t)
	s.recipe.Objects[0].Prediction = Prediction{
		Old: []Segment{{0, 0x400000, 3000}, {3000, 0x600000, 2000}}, New: []Segment{{0, 0x400000, 4809}}, Blank: []Blank{{0x700000, 0x700100, 50}},
		Rules: []Rule{{Kind: Code, Range: Range{0, 100}}, {Kind: Words, Range: Range{100, 100}},
			{Kind: Table, Range: Range{200, 50}, Stride: 8, Limit: 99, OldBases: []int64{1}, NewBases: []int64{2}},
			{Kind: Relative, Range: Range{250, 9}, Stride: 12}, {Kind: Halves, Range: Range{260, 9}, Stride: 4}, {Kind: Kernel, Range: Range{270, 9}},
			{Kind: Missing, Range: Range{280, 9}, OldBases: []int64{-1}, NewBases: []int64{-2}}, {Kind: Ranks, Range: Range{290, 9}, OldBases: []int64{-3}, NewBases: []int64{4}},
			{Kind: GoFunc, Range: Range{300, 100}, OldBases: []int64{1, 2, 3, 4, 5}, NewBases: []int64{6, 7, 8, 9, 10}}},
	}
	r, err := parseRecipe(s.recipe.encode(), s.header)
	if err != nil {
		t.Fatal(err)
	}
	for i := range r.Unpack {
		r.Unpack[i].at = 0 // where things lie in the plain file is not written
	}
	for i := range r.Objects {
		r.Objects[i].at = 0
	}
	if got, want := fmt.Sprintf("%+v", *r), fmt.Sprintf("%+v", s.recipe); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// FuzzApply gives anything for a delta: no panic, no unbounded memory or disk, and
// nothing but the new file without an error.
func FuzzApply(f *testing.F) {
	s := newSample(f)
	f.Add(s.encode(f))
	f.Fuzz(func(t *testing.T, d []byte) {
		got, err := apply(t.Context(), s.old, d)
		if err == nil && sha256.Sum256(got) != s.header.New.SHA256 {
			h, _ := ReadHeader(bytes.NewReader(d), int64(len(d)), DefaultLimits())
			if describe(got) != h.New {
				t.Error("a file came out that is not the one in the header")
			}
		}
	})
}

// FuzzRecipe mutates what is inside of a stream, which FuzzApply hardly reaches.
func FuzzRecipe(f *testing.F) {
	s := newSample(f)
	f.Add(s.recipe.encode(), s.streams.Control)
	f.Fuzz(func(t *testing.T, recipe, control []byte) {
		r, err := parseRecipe(recipe, s.header)
		if err != nil {
			return
		}
		changed := s
		changed.recipe, changed.streams.Control = *r, control
		_, _ = apply(t.Context(), s.old, changed.encode(t)) // any error will do
	})
}
