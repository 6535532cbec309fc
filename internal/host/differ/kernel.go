// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package differ

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"

	"wherry.example/wherry/internal/format/choices"
	"wherry.example/wherry/internal/format/delta"
	"wherry.example/wherry/internal/format/zstdframe"
)

// The places in a kernel's header that tell where its payload is (Linux, Documentation/arch/x86/boot.rst).
const (
	setupSectors  = 0x1f1
	bootMagic     = 0x202
	payloadOffset = 0x248
	payloadLength = 0x24c
	kernelHeader  = 0x250
	sector        = 512
	// The payload ends with the length of its content, 4 bytes.
	sizeBytes  = 4
	maxPayload = 256 << 20
)

// payloadOf finds the zstd frame in a kernel, and the length of its content.
func payloadOf(kernel []byte) (frame delta.Range, content int64, ok bool) {
	if len(kernel) < kernelHeader || string(kernel[bootMagic:bootMagic+4]) != "HdrS" {
		return delta.Range{}, 0, false
	}
	sectors := int64(kernel[setupSectors])
	if sectors == 0 {
		sectors = 4
	}
	from := (sectors+1)*sector + int64(binary.LittleEndian.Uint32(kernel[payloadOffset:]))
	bytes := int64(binary.LittleEndian.Uint32(kernel[payloadLength:])) - sizeBytes
	if bytes <= 0 || from+bytes+sizeBytes > int64(len(kernel)) {
		return delta.Range{}, 0, false
	}
	content = int64(binary.LittleEndian.Uint32(kernel[from+bytes:]))
	return delta.Range{Offset: from, Bytes: bytes}, content, content <= maxPayload && int64(frameLength(kernel[from:from+bytes])) == bytes
}

// memory is a file in memory.
type memory struct{ b []byte }

func (m *memory) ReadAt(b []byte, at int64) (int, error) { return bytes.NewReader(m.b).ReadAt(b, at) }

func (m *memory) WriteAt(b []byte, at int64) (int, error) {
	if more := int(at) + len(b) - len(m.b); more > 0 {
		m.b = append(m.b, make([]byte, more)...)
	}
	return copy(m.b[at:], b), nil
}

// openKernel takes a kernel apart: what is before its payload, the payload, what is behind
// it. One that is packed otherwise stays whole.
func (f *File) openKernel(at delta.Range) {
	add := func(name string, r delta.Range) {
		r.Offset += at.Offset
		f.whole(name, f.addPiece(piece{Range: r, content: f.data[r.Offset : r.Offset+r.Bytes]}))
	}
	kernel := f.data[at.Offset : at.Offset+at.Bytes]
	frame, size, ok := payloadOf(kernel)
	if !ok {
		add(nameKernel, delta.Range{Bytes: at.Bytes})
		return
	}
	packed := kernel[frame.Offset : frame.Offset+frame.Bytes]
	content := &memory{}
	parse, err := choices.Unpack(context.Background(), bytes.NewReader(packed), choices.Room{File: content, Bytes: size, Records: size})
	if err != nil || !rewritable(packed) {
		add(nameKernel, delta.Range{Bytes: at.Bytes})
		return
	}
	end := frame.Offset + frame.Bytes
	add(nameKernel, delta.Range{Bytes: frame.Offset})
	f.whole(namePayload, f.addPiece(piece{Range: delta.Range{Offset: at.Offset + frame.Offset, Bytes: frame.Bytes}, packed: true, from: packedKernel, content: content.b[:size], parse: parse}))
	add(nameKernelEnd, delta.Range{Offset: end, Bytes: at.Bytes - end})
}

// rewritable tells whether a frame is what its choices make.
func rewritable(frame []byte) bool {
	r, err := zstdframe.NewReader(bytes.NewReader(frame))
	if err != nil {
		return false
	}
	var out bytes.Buffer
	w, err := zstdframe.NewWriter(&out, r.Bytes)
	for err == nil {
		var b *zstdframe.Block
		var literals []byte
		if b, literals, err = r.Next(); err == nil {
			err = w.Block(b, literals)
		}
	}
	sum, err2 := r.Checksum()
	return errors.Is(err, io.EOF) && err2 == nil && bytes.Equal(append(out.Bytes(), sum...), frame)
}

// canChoose tells whether a changed payload can be written by choices that are told from the old one's.
func (m *maker) canChoose(p int) bool {
	object := m.new.owners[p][0].object
	old, ok := m.counterpart(object)
	if !ok || m.old.pieces[m.old.objects[old].extents[0].piece].parse == nil {
		return false
	}
	_, same := m.same(object)
	return !same // else there is nothing that the machine would make
}

// choose writes a changed payload by choices.
func (m *maker) choose(i int) error {
	m.Progress("telling how the kernel was packed")
	p := m.new.pieces[i]
	object := m.new.owners[i][0].object
	k, _ := m.counterpart(object)
	from := m.old.objects[k].extents[0].piece
	old := m.old.pieces[from]
	past := delta.Past(m.controls[object])
	past.Old, past.OldBytes = bytes.NewReader(old.content), int64(len(old.content))
	past.New, past.NewBytes = bytes.NewReader(p.content), int64(len(p.content))
	past.Parse = old.parse
	told, err := choices.Encode(m.ctx, bytes.NewReader(m.new.data[p.Offset:p.Offset+p.Bytes]), past)
	if err != nil {
		return err
	}
	m.streams.Choices = append(m.streams.Choices, told...)
	m.step(delta.Step{Kind: delta.Chosen, Range: delta.Range{Bytes: p.Bytes}, Object: m.indices[object], Piece: m.large[from], Choices: int64(len(told))})
	return nil
}
