// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package differ makes deltas between OS files (format: internal/format/delta).
//
// Open takes an OS file apart: its sections, the archives of the initramfs,
// the blocks of the squashfs and the files in them. Make compares two, object by
// object under the same name, and says how the machine gets the new bytes: copied
// from the old file where a compressed block is equal, packed again where it
// is not. Every block that is to be packed again is packed here first, by the
// Program: the same program of the old release that will do it on the machine. What does not come
// out equal goes into the delta as it is. So the worst that another compressor
// can do is to make deltas large. Files come from the publisher's own build or repository and
// are checked by the parsers all the same; memory is some ten times the largest program.
package differ

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"wherry.example/wherry/internal/format/delta"
)

// Packer packs as the machine will.
type Packer interface {
	Codec(ctx context.Context) (string, error)
	// Pack returns the contents as frames. Calls of done tell how far it is.
	Pack(ctx context.Context, p delta.Parameters, contents [][]byte, done func(n int)) ([][]byte, error)
}

// How a frame may have been packed, and with which parameters.
const (
	packedRoot = iota
	packedEarly
	packedKernel // by nothing that a machine could do: see kernel.go
)

var parameters = map[int]delta.Parameters{
	packedRoot:  {Level: 22},
	packedEarly: {Level: 22, WindowLog: 23, ChainLog: 22, HashLog: 21},
}

// Options of Make.
type Options struct {
	Packer   Packer
	Compress delta.Compress // of the streams; nil: delta.LZMA
	Progress func(string)   // may be nil
}

type maker struct {
	Options
	ctx      context.Context
	old, new *File

	equal    map[int]bool  // new objects that are as they were, once that is known
	copies   []int64       // of each new piece: where the old file has it; -1: nowhere
	literal  map[int]bool  // changed frames that do not come out equal
	placed   map[int]int64 // old pieces that are unpacked: where in the plain file
	whole    map[int]int64 // old objects in one run: where in the plain file
	made     map[int]int64 // new objects: where in the plain file
	literals map[int]int64 // literal frames: where in the plain file
	large    map[int]int   // old pieces that hold a kernel's payload: which in the recipe
	indices  map[int]int   // new objects: which in the recipe
	controls map[int][]delta.Control
	gaps     int64 // the gaps' object, in the plain file
	recipe   delta.Recipe
	streams  delta.Streams
	plain    int64
}

// Make returns the delta from one OS file to another.
func Make(ctx context.Context, old, data *File, o Options) ([]byte, error) {
	if o.Compress == nil {
		o.Compress = delta.LZMA
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	m := &maker{Options: o, ctx: ctx, old: old, new: data, literal: map[int]bool{}, placed: map[int]int64{}, whole: map[int]int64{}, made: map[int]int64{}, literals: map[int]int64{}, equal: map[int]bool{}, large: map[int]int{}, indices: map[int]int{}, controls: map[int][]delta.Control{}}
	for _, step := range []func() error{m.findCopies, m.tryPacking, m.placeOld, m.makeObjects, m.build} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("make a delta: %w", err)
		}
	}
	codec, err := o.Packer.Codec(ctx)
	if err != nil {
		return nil, err
	}
	h := delta.Header{
		Old:     delta.File{Bytes: int64(len(old.data)), SHA256: old.sum},
		New:     delta.File{Bytes: int64(len(data.data)), SHA256: data.sum},
		Scratch: m.plain, Codec: codec,
	}
	m.Progress("packing the delta")
	return delta.Encode(h, &m.recipe, m.streams, o.Compress)
}

// findCopies finds pieces that the old file has as they are.
func (m *maker) findCopies() error {
	stored := func(f *File, p piece) []byte { return f.data[p.Offset : p.Offset+p.Bytes] }
	have := map[[sha256.Size]byte]int64{}
	for _, p := range m.old.pieces {
		have[sha256.Sum256(stored(m.old, p))] = p.Offset
	}
	for _, p := range m.new.pieces {
		at, ok := have[sha256.Sum256(stored(m.new, p))]
		if !ok {
			at = -1
		}
		m.copies = append(m.copies, at)
	}
	return nil
}

// tryPacking packs the contents of changed frames.
func (m *maker) tryPacking() error {
	for i, p := range m.new.pieces {
		if m.copies[i] < 0 && p.from == packedKernel {
			m.literal[i] = !m.canChoose(i)
		}
	}
	for _, from := range []int{packedRoot, packedEarly} {
		var which []int
		var contents [][]byte
		for i, p := range m.new.pieces {
			if m.copies[i] < 0 && p.packed && p.from == from {
				which, contents = append(which, i), append(contents, p.content)
			}
		}
		frames, err := m.Packer.Pack(m.ctx, parameters[from], contents, func(n int) {
			if n == len(contents) || n%25 == 0 { // each takes half a second or less
				m.Progress(fmt.Sprintf("packing changed blocks again: %d of %d", n, len(contents)))
			}
		})
		if err != nil {
			return err
		}
		for k, i := range which {
			p := m.new.pieces[i]
			m.literal[i] = !bytes.Equal(frames[k], m.new.data[p.Offset:p.Offset+p.Bytes]) || len(m.new.owners[i]) > delta.MaxRanges
		}
	}
	return nil
}

// changed are the pieces whose content must be made.
func (m *maker) changed() (all []int) {
	for i, at := range m.copies {
		if at < 0 && !m.literal[i] {
			all = append(all, i)
		}
	}
	return all
}

// counterpart is the old object of the same name.
func (m *maker) counterpart(newObject int) (int, bool) {
	i, ok := m.old.byName[m.new.objects[newObject].name]
	return i, ok
}

// same tells whether an object is as it was, and whether its parts can be
// taken from where the old file's pieces are unpacked.
func (m *maker) same(newObject int) (old object, ok bool) {
	i, ok := m.counterpart(newObject)
	if !ok {
		return object{}, false
	}
	old = m.old.objects[i]
	equal, known := m.equal[newObject]
	if !known {
		equal = bytes.Equal(m.old.content(old), m.new.content(m.new.objects[newObject]))
		m.equal[newObject] = equal
	}
	return old, equal
}

// placeOld lists what is unpacked of the old file: first pieces of which only
// parts are needed, then whole objects, each in one run.
func (m *maker) placeOld() error {
	var bases []int
	seen := map[int]bool{}
	var partial []int
	for _, p := range m.changed() {
		for _, w := range m.new.owners[p] {
			if old, same := m.same(w.object); same {
				for _, e := range slice(old, w.at, w.bytes) {
					partial = append(partial, e.piece)
				}
				continue
			}
			if i, ok := m.counterpart(w.object); ok && !seen[i] {
				seen[i] = true
				bases = append(bases, i)
			}
		}
	}
	for _, i := range bases {
		for _, e := range m.old.objects[i].extents {
			if e.bytes < len(m.old.pieces[e.piece].content) {
				partial = append(partial, e.piece)
			}
		}
	}
	slices.Sort(partial)
	for _, p := range slices.Compact(partial) {
		m.place(p)
	}
	slices.SortFunc(bases, func(a, b int) int { return m.old.objects[a].extents[0].piece - m.old.objects[b].extents[0].piece })
	for _, i := range bases {
		m.placeWhole(i)
	}
	return nil
}

// slice returns the extents of a part of an object.
func slice(o object, at, bytes int) (out []extent) {
	for _, e := range o.extents {
		if from, to := max(at, 0), min(at+bytes, e.bytes); from < to {
			out = append(out, extent{e.piece, e.offset + from, to - from})
		}
		at -= e.bytes
	}
	return out
}

func (m *maker) unpack(p delta.Piece) {
	m.recipe.Unpack = append(m.recipe.Unpack, p)
	m.plain += p.Length()
}

// place unpacks a piece of the old file.
func (m *maker) place(i int) {
	if _, there := m.placed[i]; there {
		return
	}
	p := m.old.pieces[i]
	m.placed[i] = m.plain
	added := delta.Piece{Kind: delta.Stored, Offset: p.Offset, Bytes: p.Bytes, Plain: int64(len(p.content))}
	switch {
	case p.parse != nil:
		added.Kind, added.Records = delta.Large, p.parse.Records()
		m.large[i] = len(m.recipe.Unpack)
	case p.packed:
		added.Kind = delta.Frame
	}
	m.unpack(added)
}

func (m *maker) placeWhole(i int) {
	m.whole[i] = m.plain
	for _, e := range m.old.objects[i].extents {
		at, there := m.placed[e.piece]
		if !there {
			m.place(e.piece)
			continue
		}
		m.unpack(delta.Piece{Kind: delta.Repeated, Offset: at + int64(e.offset), Bytes: int64(e.bytes)})
	}
}

// makeObjects compares the objects that changed, and takes literals and gaps along.
func (m *maker) makeObjects() error {
	// The old gaps end what is unpacked.
	gaps := delta.Range{Offset: m.plain}
	for _, g := range m.old.gaps() {
		m.unpack(delta.Piece{Kind: delta.Stored, Offset: g.Offset, Bytes: g.Bytes})
		gaps.Bytes += g.Bytes
	}
	for _, p := range m.changed() {
		for _, w := range m.new.owners[p] {
			if err := m.makeObject(w.object); err != nil {
				return err
			}
		}
	}
	m.gaps = m.plain
	if _, err := m.addObject(gaps, m.old.gapContent(), m.new.gapContent()); err != nil {
		return err
	}
	for i, p := range m.new.pieces {
		if !m.literal[i] {
			continue
		}
		m.literals[i] = m.plain
		if _, err := m.addObject(delta.Range{}, nil, m.new.data[p.Offset:p.Offset+p.Bytes]); err != nil {
			return err
		}
	}
	return nil
}

func (m *maker) makeObject(i int) error {
	if _, there := m.made[i]; there {
		return nil
	}
	if _, same := m.same(i); same {
		return nil
	}
	o := m.new.objects[i]
	data := m.new.content(o)
	m.made[i], m.indices[i] = m.plain, len(m.recipe.Objects)
	k, ok := m.counterpart(i)
	if !ok {
		m.Progress("new: " + o.name)
		_, err := m.addObject(delta.Range{}, nil, data)
		return err
	}
	old := m.old.content(m.old.objects[k])
	m.Progress("comparing " + o.name)
	controls, err := m.addObject(delta.Range{Offset: m.whole[k], Bytes: int64(len(old))}, old, data)
	m.controls[i] = controls
	return err
}

// addObject makes data out of old content, which lies at a range of the plain file.
func (m *maker) addObject(at delta.Range, old, data []byte) ([]delta.Control, error) {
	if err := m.ctx.Err(); err != nil {
		return nil, err
	}
	controls := []delta.Control{{Extra: int64(len(data))}}
	if len(old) > 0 {
		controls = align(comparable(old, data))
	}
	if len(controls) > delta.MaxControls { // as good as nothing in common
		controls = []delta.Control{{Extra: int64(len(data))}}
	}
	o := delta.Object{Bytes: int64(len(data)), Old: at, Controls: len(controls), Prediction: predictionFor(old, data)}
	m.recipe.Objects = append(m.recipe.Objects, o)
	m.plain += o.Bytes
	return controls, m.streams.Add(o.Prediction, controls, old, data)
}

// build lists how the new file is put together.
func (m *maker) build() error {
	gap := m.gaps
	gaps := m.new.gaps()
	for i, p := range m.new.pieces {
		for len(gaps) > 0 && gaps[0].Offset < p.Offset {
			m.step(delta.Step{Kind: delta.Plain, Range: delta.Range{Offset: gap, Bytes: gaps[0].Bytes}})
			gap += gaps[0].Bytes
			gaps = gaps[1:]
		}
		switch {
		case m.copies[i] >= 0:
			m.step(delta.Step{Kind: delta.Copied, Range: delta.Range{Offset: m.copies[i], Bytes: p.Bytes}})
		case m.literal[i]:
			m.step(delta.Step{Kind: delta.Plain, Range: delta.Range{Offset: m.literals[i], Bytes: p.Bytes}})
		case p.from == packedKernel:
			if err := m.choose(i); err != nil {
				return err
			}
		case p.packed:
			m.step(delta.Step{Kind: delta.Packed, Range: delta.Range{Bytes: p.Bytes}, Parameters: parameters[p.from], Ranges: m.ranges(i)})
		default:
			for _, r := range m.ranges(i) {
				m.step(delta.Step{Kind: delta.Plain, Range: r})
			}
		}
	}
	for _, g := range gaps {
		m.step(delta.Step{Kind: delta.Plain, Range: delta.Range{Offset: gap, Bytes: g.Bytes}})
		gap += g.Bytes
	}
	return nil
}

// step appends to the recipe. What goes on where the step before ended is one with it.
func (m *maker) step(s delta.Step) {
	if n := len(m.recipe.Build); n > 0 && (s.Kind == delta.Copied || s.Kind == delta.Plain) {
		if last := &m.recipe.Build[n-1]; last.Kind == s.Kind && last.Offset+last.Bytes == s.Offset {
			last.Bytes += s.Bytes
			return
		}
	}
	m.recipe.Build = append(m.recipe.Build, s)
}

// ranges says where in the plain file a changed piece's content is.
func (m *maker) ranges(p int) (out []delta.Range) {
	for _, w := range m.new.owners[p] {
		if at, made := m.made[w.object]; made {
			out = append(out, delta.Range{Offset: at + int64(w.at), Bytes: int64(w.bytes)})
			continue
		}
		old, _ := m.same(w.object)
		for _, e := range slice(old, w.at, w.bytes) {
			out = append(out, delta.Range{Offset: m.placed[e.piece] + int64(e.offset), Bytes: int64(e.bytes)})
		}
	}
	return slices.Clip(out)
}
