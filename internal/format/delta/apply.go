// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package delta

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
)

// Codec is the compressor of the frames.
type Codec interface {
	// Name tells the library and its version: another may pack differently.
	Name() string
	// Unpack returns the content of a frame, which must have exactly that size.
	Unpack(frame []byte, size int64) ([]byte, error)
	// Pack returns content as a frame.
	Pack(p Parameters, content []byte) ([]byte, error)
}

// Scratch is the plain file.
type Scratch interface {
	io.ReaderAt
	io.WriterAt
}

// Job is one delta to apply.
type Job struct {
	Old       io.ReaderAt
	OldBytes  int64
	Delta     io.ReaderAt
	DeltaSize int64
	Scratch   Scratch // empty
	New       io.Writer
	Codec     Codec
	Limits    Limits
}

// applier is a job under way.
type applier struct {
	Job
	ctx    context.Context
	header Header
	recipe *Recipe
	plain  int64 // bytes of the plain file so far
	buffer []byte
	second []byte // for what is added to buffer
	chosen
}

// chunk is how much is held in memory at once. Predictions see no further than
// it, so it belongs to the format.
const chunk = 1 << 20

// Apply makes the new file and proves it by its hash.
func Apply(ctx context.Context, j Job) error {
	h, err := ReadHeader(j.Delta, j.DeltaSize, j.Limits)
	if err != nil {
		return err
	}
	a := &applier{Job: j, ctx: ctx, header: h, buffer: make([]byte, chunk), second: make([]byte, chunk)}
	for _, step := range []func() error{a.checkOld, a.readRecipe, a.unpack, a.makeObjects, a.build} {
		if err := step(); err != nil {
			return fmt.Errorf("apply the delta: %w", err)
		}
	}
	return nil
}

func (a *applier) checkOld() error {
	if a.header.Codec != a.Codec.Name() {
		return fmt.Errorf("%w: %.64q, and this is %s", ErrCodec, a.header.Codec, a.Codec.Name())
	}
	if a.OldBytes != a.header.Old.Bytes {
		return fmt.Errorf("%w: of %d bytes, and this one has %d", ErrOld, a.header.Old.Bytes, a.OldBytes)
	}
	sum := sha256.New()
	if _, err := io.CopyBuffer(sum, struct{ io.Reader }{&patient{a.ctx, io.NewSectionReader(a.Old, 0, a.OldBytes)}}, a.buffer); err != nil {
		return fmt.Errorf("read the old file: %w", err)
	}
	if !bytes.Equal(sum.Sum(nil), a.header.Old.SHA256[:]) {
		return fmt.Errorf("%w: with SHA-256 %x, and this one has %x", ErrOld, a.header.Old.SHA256, sum.Sum(nil))
	}
	return nil
}

// patient reads until the context ends.
type patient struct {
	ctx context.Context
	r   io.Reader
}

func (p *patient) Read(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	return p.r.Read(b)
}

func (a *applier) readRecipe() error {
	r, err := a.header.open(a.Delta, streamRecipe)
	if err != nil {
		return err
	}
	b := make([]byte, a.header.streams[streamRecipe].plain)
	if _, err := io.ReadFull(r, b); err != nil {
		return fmt.Errorf("%w: recipe: %w", ErrFormat, err)
	}
	a.recipe, err = parseRecipe(b, a.header)
	return err
}

func (a *applier) add(b []byte) error {
	if _, err := a.Scratch.WriteAt(b, a.plain); err != nil {
		return fmt.Errorf("write the plain file: %w", err)
	}
	a.plain += int64(len(b))
	return nil
}

func (a *applier) unpack() error {
	for i, p := range a.recipe.Unpack {
		var err error
		switch p.Kind {
		case Frame:
			err = a.unpackFrame(p)
		case Stored:
			err = a.each(a.Old, Range{p.Offset, p.Bytes}, a.add)
		case Repeated:
			err = a.each(a.Scratch, Range{p.Offset, p.Bytes}, a.add)
		case Large:
			err = a.unpackLarge(i, p)
		}
		if err != nil {
			return fmt.Errorf("unpack the old file at byte %d: %w", p.Offset, err)
		}
	}
	return nil
}

func (a *applier) unpackFrame(p Piece) error {
	if err := a.ctx.Err(); err != nil {
		return err
	}
	packed := make([]byte, p.Bytes)
	if _, err := a.Old.ReadAt(packed, p.Offset); err != nil {
		return err
	}
	plain, err := a.Codec.Unpack(packed, p.Plain)
	if err != nil {
		return err
	}
	if int64(len(plain)) != p.Plain {
		return fmt.Errorf("%w: a frame holds %d bytes, not %d", ErrFormat, len(plain), p.Plain)
	}
	return a.add(plain)
}

// each calls do with a range, chunk by chunk.
func (a *applier) each(r io.ReaderAt, s Range, do func([]byte) error) error {
	for s.Bytes > 0 {
		if err := a.ctx.Err(); err != nil {
			return err
		}
		b := a.buffer[:min(chunk, s.Bytes)]
		if err := readFull(r, b, s.Offset); err != nil {
			return err
		}
		if err := do(b); err != nil {
			return err
		}
		s.Offset += int64(len(b))
		s.Bytes -= int64(len(b))
	}
	return nil
}

// readFull reads all of b. Reaching just the end of the file is no error.
func readFull(r io.ReaderAt, b []byte, at int64) error {
	if n, err := r.ReadAt(b, at); n < len(b) {
		return fmt.Errorf("read at byte %d: %w", at, err)
	}
	return nil
}

func (a *applier) makeObjects() error {
	var in [streamCount]io.Reader
	for _, n := range []int{streamControl, streamDifference, streamExtra} {
		var err error
		if in[n], err = a.header.open(a.Delta, n); err != nil {
			return err
		}
	}
	control := bufio.NewReader(in[streamControl])
	for i, o := range a.recipe.Objects {
		controls, err := readControls(control, o)
		if err == nil {
			err = a.makeObject(o, controls, in[streamDifference], in[streamExtra])
		}
		a.keep(i, controls)
		if err != nil {
			return fmt.Errorf("object %d: %w", i, err)
		}
	}
	// The dictionaries are of no more use, and packing wants memory of its own.
	in = [streamCount]io.Reader{}
	control = nil
	debug.FreeOSMemory()
	return nil
}

func (a *applier) makeObject(o Object, controls []Control, difference, extra io.Reader) error {
	old := io.NewSectionReader(a.Scratch, o.Old.Offset, o.Old.Bytes)
	predictor, err := NewPredictor(o.Prediction, controls, old)
	if err != nil {
		return err
	}
	var from, to int64
	for _, c := range controls {
		for left := c.Copy; left > 0; {
			b, d := a.buffer[:min(chunk, left)], a.second[:min(chunk, left)]
			if err := readFull(old, b, from); err != nil {
				return err
			}
			predictor.correct(b, from, to)
			if err := a.fill(difference, d); err != nil {
				return err
			}
			for i := range b {
				b[i] += d[i]
			}
			if err := a.add(b); err != nil {
				return err
			}
			from, to, left = from+int64(len(b)), to+int64(len(b)), left-int64(len(b))
		}
		for left := c.Extra; left > 0; left -= min(chunk, left) {
			b := a.buffer[:min(chunk, left)]
			if err := a.fill(extra, b); err != nil {
				return err
			}
			if err := a.add(b); err != nil {
				return err
			}
		}
		to += c.Extra
		from += c.Seek
	}
	return nil
}

// fill reads from a stream, which must have that much.
func (a *applier) fill(r io.Reader, b []byte) error {
	if err := a.ctx.Err(); err != nil {
		return err
	}
	if _, err := io.ReadFull(r, b); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = ErrFormat
		}
		return fmt.Errorf("read the delta: %w", err)
	}
	return nil
}

// build puts the new file together.
func (a *applier) build() error {
	sum := sha256.New()
	out := io.MultiWriter(a.New, sum)
	write := func(b []byte) error {
		_, err := out.Write(b)
		return err
	}
	for i, s := range a.recipe.Build {
		var err error
		switch s.Kind {
		case Copied:
			err = a.each(a.Old, s.Range, write)
		case Plain:
			err = a.each(a.Scratch, s.Range, write)
		case Packed:
			err = a.pack(s, write)
		case Chosen:
			err = a.choose(s, write)
		}
		if err != nil {
			return fmt.Errorf("build the new file, step %d: %w", i, err)
		}
	}
	if !bytes.Equal(sum.Sum(nil), a.header.New.SHA256[:]) {
		return ErrResult
	}
	return nil
}

func (a *applier) pack(s Step, write func([]byte) error) error {
	if err := a.ctx.Err(); err != nil {
		return err
	}
	var content []byte
	for _, r := range s.Ranges {
		b := make([]byte, r.Bytes)
		if err := readFull(a.Scratch, b, r.Offset); err != nil {
			return err
		}
		content = append(content, b...)
	}
	frame, err := a.Codec.Pack(s.Parameters, content)
	if err != nil {
		return err
	}
	if int64(len(frame)) != s.Bytes {
		return fmt.Errorf("%w: a frame of %d bytes was packed to %d", ErrResult, s.Bytes, len(frame))
	}
	return write(frame)
}
