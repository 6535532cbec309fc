// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package delta

import (
	"fmt"
	"io"

	"wherry.example/wherry/internal/format/choices"
)

// chosen is what an applier keeps for frames that are written by choices.
type chosen struct {
	parses   map[int]*choices.Parse // by the Large piece
	controls map[int][]Control      // of objects in Chosen steps
	used     int64                  // bytes of the stream of choices
}

// unpackLarge unpacks a frame that may be larger than memory, and notes how it was packed.
func (a *applier) unpackLarge(i int, p Piece) error {
	frame := io.NewSectionReader(a.Old, p.Offset, p.Bytes)
	parse, err := choices.Unpack(a.ctx, frame, choices.Room{File: a.Scratch, Offset: a.plain, Bytes: p.Plain, Records: p.Records})
	if err != nil {
		return err
	}
	if parse.Records() != p.Records {
		return fmt.Errorf("%w: a frame has %d matches, not %d", ErrFormat, parse.Records(), p.Records)
	}
	if a.parses == nil {
		a.parses = map[int]*choices.Parse{}
	}
	a.parses[i] = parse
	a.plain += p.Length()
	return nil
}

// keep remembers what moved where in an object, if a step will ask for it.
func (a *applier) keep(object int, controls []Control) {
	for _, s := range a.recipe.Build {
		if s.Kind == Chosen && s.Object == object {
			if a.controls == nil {
				a.controls = map[int][]Control{}
			}
			a.controls[object] = controls
		}
	}
}

// choose writes an object as a frame.
func (a *applier) choose(s Step, write func([]byte) error) error {
	o := a.recipe.Objects[s.Object]
	past := Past(a.controls[s.Object])
	past.Old, past.OldBytes = io.NewSectionReader(a.Scratch, o.Old.Offset, o.Old.Bytes), o.Old.Bytes
	past.New, past.NewBytes = io.NewSectionReader(a.Scratch, o.at, o.Bytes), o.Bytes
	past.Parse = a.parses[s.Piece]
	if s.Choices > a.header.streams[streamChoices].packed-a.used {
		return fmt.Errorf("%w: the choices are cut off", ErrFormat)
	}
	in := io.NewSectionReader(a.Delta, a.header.place(streamChoices)+a.used, s.Choices)
	a.used += s.Choices
	out := &counted{write: write, left: s.Bytes}
	if err := choices.Decode(a.ctx, in, past, out); err != nil {
		return err
	}
	if out.left != 0 {
		return fmt.Errorf("%w: a frame of %d bytes is %d bytes short", ErrResult, s.Bytes, out.left)
	}
	return nil
}

// counted passes on no more than it may.
type counted struct {
	write func([]byte) error
	left  int64
}

func (c *counted) Write(b []byte) (int, error) {
	if c.left -= int64(len(b)); c.left < 0 {
		return 0, fmt.Errorf("%w: a frame is longer than it was", ErrResult)
	}
	return len(b), c.write(b)
}

// Past is what controls tell of what moved where. The contents are the caller's to add.
func Past(controls []Control) choices.Past {
	var p choices.Past
	var old, to int64
	for _, c := range controls {
		if c.Copy > 0 {
			p.Moves = append(p.Moves, choices.Move{Old: old, New: to, Bytes: c.Copy})
		}
		old += c.Copy + c.Seek
		to += c.Copy + c.Extra
	}
	for _, m := range movesOf(controls) {
		p.Back = append(p.Back, choices.Move{Old: int64(m.old), New: int64(m.new), Bytes: int64(m.bytes)})
	}
	return p
}
