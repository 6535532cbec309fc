// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package delta

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// lzmaHeader is what a stream in LZMA begins with: properties, the dictionary's
// size, the content's.
const lzmaHeader = 13

// open returns the content of a stream. It ends after what the header promised.
func (h Header) open(delta io.ReaderAt, n int) (io.Reader, error) {
	at, s := h.place(n), h.streams[n]
	if s.plain == 0 {
		return eof{}, nil
	}
	var start [lzmaHeader]byte
	packed := io.NewSectionReader(delta, at, s.packed)
	if _, err := packed.ReadAt(start[:], 0); err != nil {
		return nil, fmt.Errorf("%w: stream %d is cut off", ErrFormat, n)
	}
	if size := little.Uint32(start[1:]); size > dictionary {
		return nil, fmt.Errorf("%w: a dictionary of %d bytes", ErrLimit, size)
	}
	// The reader takes at least the memory that it is told, even where the stream needs less.
	r, err := lzma.ReaderConfig{DictCap: max(lzma.MinDictCap, int(little.Uint32(start[1:])))}.NewReader(bufio.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("%w: stream %d: %w", ErrFormat, n, err)
	}
	return bufio.NewReaderSize(io.LimitReader(r, s.plain), 64<<10), nil
}

// place is where a stream begins.
func (h Header) place(n int) int64 {
	at := h.size
	for _, s := range h.streams[:n] {
		at += s.packed
	}
	return at
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// Compress makes LZMA out of the content of a stream.
type Compress func(plain []byte) ([]byte, error)

// LZMA is the Compress that needs no other program. The program xz makes the
// same smaller by some percent.
func LZMA(plain []byte) ([]byte, error) {
	var out writer
	w, err := lzma.WriterConfig{DictCap: dictionary, SizeInHeader: true, Size: int64(len(plain))}.NewWriter(&out)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	err = w.Close()
	return out, err
}

type writer []byte

func (w *writer) Write(b []byte) (int, error) {
	*w = append(*w, b...)
	return len(b), nil
}

// Streams are the contents of a delta beside its recipe.
type Streams struct{ Control, Difference, Extra, Choices []byte }

// Encode returns a delta. The header's streams are filled in.
func Encode(h Header, r *Recipe, s Streams, compress Compress) ([]byte, error) {
	var body []byte
	for i, plain := range [streamCount][]byte{r.encode(), s.Control, s.Difference, s.Extra, s.Choices} {
		h.streams[i] = stream{plain: int64(len(plain))}
		if len(plain) == 0 {
			continue
		}
		if i == streamChoices { // packed already
			h.streams[i].packed = int64(len(plain))
			body = append(body, plain...)
			continue
		}
		packed, err := compress(plain)
		if err != nil {
			return nil, fmt.Errorf("pack stream %d: %w", i, err)
		}
		h.streams[i].packed = int64(len(packed))
		body = append(body, packed...)
	}
	return append(h.append(nil), body...), nil
}

// Add appends to the streams what makes data out of old content, as Apply will do
// it with the same prediction and controls.
func (s *Streams) Add(p Prediction, controls []Control, old, data []byte) error {
	predictor, err := NewPredictor(p, controls, bytes.NewReader(old))
	if err != nil {
		return err
	}
	var from, to int64
	for _, c := range controls {
		s.Control = appendControl(s.Control, c)
		for left := c.Copy; left > 0; {
			b := bytes.Clone(old[from : from+min(chunk, left)])
			predictor.correct(b, from, to)
			for i := range b {
				b[i] = data[to+int64(i)] - b[i]
			}
			s.Difference = append(s.Difference, b...)
			from, to, left = from+int64(len(b)), to+int64(len(b)), left-int64(len(b))
		}
		s.Extra = append(s.Extra, data[to:to+c.Extra]...)
		to += c.Extra
		from += c.Seek
	}
	return nil
}

// appendControl appends an entry to a control stream.
func appendControl(b []byte, c Control) []byte {
	b = binary.AppendUvarint(b, uint64(c.Copy))
	b = binary.AppendUvarint(b, uint64(c.Extra))
	return binary.AppendVarint(b, c.Seek)
}

// readControls reads the entries of one object, and checks that they stay within
// both contents and make the whole object.
func readControls(r io.ByteReader, o Object) ([]Control, error) {
	var all []Control
	var old, made int64
	for range o.Controls {
		var c Control
		var err error
		for _, v := range []*int64{&c.Copy, &c.Extra} {
			u, e := binary.ReadUvarint(r)
			if *v = int64(u); e != nil || u > maxObject {
				return nil, fmt.Errorf("%w: control stream", ErrFormat)
			}
		}
		if c.Seek, err = binary.ReadVarint(r); err != nil || c.Seek > maxObject || c.Seek < -maxObject {
			return nil, fmt.Errorf("%w: control stream", ErrFormat)
		}
		if c.Copy > o.Old.Bytes-old || c.Copy+c.Extra > o.Bytes-made {
			return nil, fmt.Errorf("%w: control stream leads out of its object", ErrFormat)
		}
		made += c.Copy + c.Extra
		if old += c.Copy + c.Seek; old < 0 || old > o.Old.Bytes {
			return nil, fmt.Errorf("%w: control stream leads out of its object", ErrFormat)
		}
		all = append(all, c)
	}
	if made != o.Bytes {
		return nil, fmt.Errorf("%w: control stream makes %d of %d bytes", ErrFormat, made, o.Bytes)
	}
	return all, nil
}
