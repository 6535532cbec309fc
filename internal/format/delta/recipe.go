// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package delta

import (
	"encoding/binary"
	"fmt"

	"wherry.example/wherry/internal/format/choices"
)

// Recipe is how the new file comes about. Offsets of the plain file count from
// its beginning: first what Unpack puts there, then the objects.
type Recipe struct {
	Unpack  []Piece
	Objects []Object
	Build   []Step
}

// Kinds of pieces.
const (
	Stored   = 0 // a range of the old file as it is
	Frame    = 1 // a compressed frame of the old file
	Repeated = 2 // a range of the plain file once more
	Large    = 3 // a frame of the old file, and behind its content how it was packed
)

// Piece is appended to the plain file.
type Piece struct {
	Kind   int
	Offset int64
	Bytes  int64 // at Offset
	Plain  int64 // content of a Frame
	// Records is how much there is to know of how a Large frame was packed.
	Records int64

	at int64 // in the plain file
}

// Length is what the piece adds to the plain file.
func (p Piece) Length() int64 {
	switch p.Kind {
	case Frame:
		return p.Plain
	case Large:
		return p.Plain + choices.RecordBytes*p.Records
	}
	return p.Bytes
}

// Range is a part of the plain file.
type Range struct{ Offset, Bytes int64 }

// Object is content that is made from old content.
type Object struct {
	Bytes    int64
	Old      Range // of the plain file, before the object itself
	Controls int
	Prediction

	at int64 // in the plain file
}

// Kinds of steps.
const (
	Copied = 0 // a range of the old file
	Plain  = 1 // a range of the plain file
	Packed = 2 // ranges of the plain file, as one frame
	Chosen = 3 // an object, as one frame that is written by choices
)

// Step appends to the new file.
type Step struct {
	Kind   int
	Range  // of a Copied or Plain step; of the others Bytes is the frame's length
	Ranges []Range
	Parameters
	// Of a Chosen step: the object, the Large piece that it was made from, and how many bytes of choices.
	Object, Piece int
	Choices       int64
}

// Parameters are those of the compressor. Logarithms that are zero are chosen by it.
type Parameters struct {
	Level, WindowLog, ChainLog, HashLog int
}

// parseRecipe reads a recipe and checks every range in it: against the old
// file's size, against what the plain file holds at that step, and against the sizes that the header promises.
func parseRecipe(b []byte, h Header) (*Recipe, error) {
	r, w := &Recipe{}, &wire{b: b}
	plain := r.parseUnpack(w, h)
	plain = r.parseObjects(w, h, plain)
	if built := r.parseBuild(w, h, plain); w.err == nil && (w.at != len(b) || built != h.New.Bytes || plain != h.Scratch) {
		w.fail()
	}
	if w.err != nil {
		return nil, fmt.Errorf("read the recipe: %w", w.err)
	}
	return r, nil
}

// span reads a range that lies within limit bytes. Its offset is told from the
// end of the one before, which last remembers.
func (w *wire) span(last *int64, limit int64) Range {
	r := Range{Offset: *last + w.signed(limit)}
	r.Bytes = w.number(limit)
	if r.Offset < 0 || r.Offset > limit-r.Bytes {
		w.fail()
		return Range{}
	}
	*last = r.Offset + r.Bytes
	return r
}

func (r *Recipe) parseUnpack(w *wire, h Header) (plain int64) {
	var old, again int64
	for range w.number(maxList) {
		p := Piece{Kind: int(w.number(Large)), at: plain}
		if p.Kind == Repeated {
			s := w.span(&again, plain)
			p.Offset, p.Bytes = s.Offset, s.Bytes
		} else {
			s := w.span(&old, h.Old.Bytes)
			p.Offset, p.Bytes = s.Offset, s.Bytes
		}
		p.parseFrame(w)
		if plain += p.Length(); plain > h.Scratch {
			w.fail()
		}
		if w.err != nil {
			return 0
		}
		r.Unpack = append(r.Unpack, p)
	}
	return plain
}

// parseFrame reads what a compressed piece has beside its place.
func (p *Piece) parseFrame(w *wire) {
	switch p.Kind {
	case Frame:
		p.Plain = w.number(maxFrame)
		if p.Bytes > maxFrame {
			w.fail()
		}
	case Large:
		p.Plain = w.number(maxLarge)
		p.Records = w.number(maxLarge)
	}
}

func (r *Recipe) parseObjects(w *wire, h Header, plain int64) int64 {
	var last int64
	for range w.number(maxList) {
		o := Object{Bytes: w.number(maxObject), Controls: int(w.number(MaxControls)), at: plain}
		o.Old = w.span(&last, plain)
		o.Prediction.parse(w, o)
		if plain += o.Bytes; plain > h.Scratch {
			w.fail()
		}
		if w.err != nil {
			return 0
		}
		r.Objects = append(r.Objects, o)
	}
	return plain
}

func (r *Recipe) parseBuild(w *wire, h Header, plain int64) (built int64) {
	var old, last, large int64
	for range w.number(maxList) {
		s := Step{Kind: int(w.number(Chosen))}
		switch s.Kind {
		case Copied:
			s.Range = w.span(&old, h.Old.Bytes)
		case Plain:
			s.Range = w.span(&last, plain)
		case Packed:
			s.parsePacked(w, &last, plain)
		case Chosen:
			if large += s.parseChosen(w, r); large > maxLarge {
				w.fail()
			}
		}
		if built += s.Bytes; built > h.New.Bytes {
			w.fail()
		}
		if w.err != nil {
			return 0
		}
		r.Build = append(r.Build, s)
	}
	return built
}

func (s *Step) parsePacked(w *wire, last *int64, plain int64) {
	s.Bytes = w.number(maxFrame)
	s.Level = int(w.number(22))
	s.WindowLog, s.ChainLog, s.HashLog = int(w.number(23)), int(w.number(23)), int(w.number(22))
	var total int64
	for range w.number(MaxRanges) {
		r := w.span(last, plain)
		if total += r.Bytes; total > maxFrame {
			w.fail()
		}
		if w.err != nil {
			return
		}
		s.Ranges = append(s.Ranges, r)
	}
}

// parseChosen wants the object to be made from all of the piece's content, and
// returns how large it is.
func (s *Step) parseChosen(w *wire, r *Recipe) int64 {
	s.Bytes, s.Choices = w.number(maxLarge), w.number(maxLarge)
	s.Object, s.Piece = int(w.number(maxList)), int(w.number(maxList))
	if w.err != nil || s.Object >= len(r.Objects) || s.Piece >= len(r.Unpack) {
		w.fail()
		return 0
	}
	o, p := r.Objects[s.Object], r.Unpack[s.Piece]
	if p.Kind != Large || o.Old != (Range{p.at, p.Plain}) {
		w.fail()
	}
	return o.Bytes
}

// encoder writes what wire reads.
type encoder struct{ b []byte }

func (e *encoder) number(v int64) { e.b = binary.AppendUvarint(e.b, uint64(v)) }
func (e *encoder) signed(v int64) { e.b = binary.AppendVarint(e.b, v) }

func (e *encoder) span(last *int64, r Range) {
	e.signed(r.Offset - *last)
	e.number(r.Bytes)
	*last = r.Offset + r.Bytes
}

func (r *Recipe) encode() []byte {
	e := &encoder{}
	e.number(int64(len(r.Unpack)))
	var old, again, last int64
	for _, p := range r.Unpack {
		e.number(int64(p.Kind))
		if p.Kind == Repeated {
			e.span(&again, Range{p.Offset, p.Bytes})
		} else {
			e.span(&old, Range{p.Offset, p.Bytes})
		}
		if p.Kind == Frame || p.Kind == Large {
			e.number(p.Plain)
		}
		if p.Kind == Large {
			e.number(p.Records)
		}
	}
	e.number(int64(len(r.Objects)))
	for _, o := range r.Objects {
		e.number(o.Bytes)
		e.number(int64(o.Controls))
		e.span(&last, o.Old)
		o.Prediction.encode(e)
	}
	e.steps(r.Build)
	return e.b
}

func (e *encoder) steps(steps []Step) {
	e.number(int64(len(steps)))
	var old, last int64
	for _, s := range steps {
		e.number(int64(s.Kind))
		switch s.Kind {
		case Copied:
			e.span(&old, s.Range)
		case Plain:
			e.span(&last, s.Range)
		case Packed:
			for _, v := range []int{int(s.Bytes), s.Level, s.WindowLog, s.ChainLog, s.HashLog} {
				e.number(int64(v))
			}
			e.number(int64(len(s.Ranges)))
			for _, r := range s.Ranges {
				e.span(&last, r)
			}
		case Chosen:
			for _, v := range []int64{s.Bytes, s.Choices, int64(s.Object), int64(s.Piece)} {
				e.number(v)
			}
		}
	}
}
