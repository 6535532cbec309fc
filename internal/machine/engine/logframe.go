// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"time"

	"wherry.example/wherry/api/wherryv1"
)

// A log file is a row of frames. Each holds one line, or a piece of one when
// the container wrote without a newline:
//
//	magic  1 byte   0xF5
//	flags  1 byte   bit 0: standard error; bit 1: piece, the line goes on
//	time   8 bytes  Unix nanoseconds, little-endian
//	length 4 bytes  of data
//	data
//	size   4 bytes  of the whole frame, so that the file can be read backwards
//
// Frames are appended by one write. A torn frame at the end of a file, left by
// a power cut, is cut off when the file is opened for writing.
type frame struct {
	time   time.Time
	stream wherryv1.Stream
	piece  bool
	data   []byte
}

const (
	frameMagic    = 0xF5
	frameHeader   = 14
	frameOverhead = frameHeader + 4
	maxFrameData  = 64 << 10
	flagStderr    = 1
	flagPiece     = 2
)

var newline = []byte("\n")

var errTorn = errors.New("torn log frame")

// appendFrames splits data into lines and appends their frames to b.
func appendFrames(b []byte, stream wherryv1.Stream, now time.Time, data []byte) []byte {
	b = slices.Grow(b, len(data)+(1+bytes.Count(data, newline))*frameOverhead)
	for len(data) > 0 {
		line, flags := data, byte(0)
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			line = data[:i+1]
		} else {
			flags = flagPiece
		}
		if len(line) > maxFrameData {
			line, flags = line[:maxFrameData], flagPiece
		}
		if stream == wherryv1.Stream_STREAM_STDERR {
			flags |= flagStderr
		}
		data = data[len(line):]
		b = append(b, frameMagic, flags)
		b = binary.LittleEndian.AppendUint64(b, uint64(now.UnixNano()))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(line)))
		b = append(b, line...)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(line)+frameOverhead))
	}
	return b
}

// parseFrame reads the first frame of b. io.ErrShortBuffer asks for more bytes.
func parseFrame(b []byte) (f frame, size int, err error) {
	if len(b) < frameHeader {
		return f, 0, io.ErrShortBuffer
	}
	n := int(binary.LittleEndian.Uint32(b[10:]))
	if b[0] != frameMagic || n > maxFrameData {
		return f, 0, errTorn
	}
	size = n + frameOverhead
	if len(b) < size {
		return f, 0, io.ErrShortBuffer
	}
	if int(binary.LittleEndian.Uint32(b[frameHeader+n:])) != size {
		return f, 0, errTorn
	}
	f.time = time.Unix(0, int64(binary.LittleEndian.Uint64(b[2:])))
	if b[1]&flagStderr != 0 {
		f.stream = wherryv1.Stream_STREAM_STDERR
	}
	f.piece = b[1]&flagPiece != 0
	f.data = b[frameHeader : frameHeader+n]
	return f, size, nil
}

// lastFrame reads the frame that ends at end.
func lastFrame(r io.ReaderAt, end int64) (f frame, start int64, err error) {
	var tail [4]byte
	if end < frameOverhead {
		return f, 0, errTorn
	}
	if _, err := r.ReadAt(tail[:], end-4); err != nil {
		return f, 0, err
	}
	size := int64(binary.LittleEndian.Uint32(tail[:]))
	if size < frameOverhead || size > maxFrameData+frameOverhead || size > end {
		return f, 0, errTorn
	}
	b := make([]byte, size)
	if _, err := r.ReadAt(b, end-size); err != nil {
		return f, 0, err
	}
	f, n, err := parseFrame(b)
	if err == nil && int64(n) != size {
		err = errTorn
	}
	return f, end - size, err
}

// soundEnd returns where the last whole frame ends.
func soundEnd(r io.ReaderAt, size int64) int64 {
	if size == 0 {
		return 0
	}
	if _, _, err := lastFrame(r, size); err == nil {
		return size
	}
	sound := int64(0)
	scan := newFrameScanner(r, 0)
	for {
		_, err := scan.next(size)
		if err != nil {
			return sound
		}
		sound = scan.offset()
	}
}

// frameScanner reads frames forwards with one buffer.
type frameScanner struct {
	r    io.ReaderAt
	buf  []byte
	have []byte // unread part of buf
	pos  int64  // file offset of have
}

func newFrameScanner(r io.ReaderAt, from int64) *frameScanner {
	return &frameScanner{r: r, pos: from}
}

func (s *frameScanner) offset() int64 { return s.pos }

// next returns the next frame, valid until the call after, or io.EOF when
// fewer bytes than a frame are left before end.
func (s *frameScanner) next(end int64) (frame, error) {
	for {
		f, n, err := parseFrame(s.have)
		if err == nil {
			s.have = s.have[n:]
			s.pos += int64(n)
			return f, nil
		}
		if !errors.Is(err, io.ErrShortBuffer) {
			return f, err
		}
		if more, err := s.fill(end); err != nil || !more {
			return f, errors.Join(err, io.EOF)
		}
	}
}

func (s *frameScanner) fill(end int64) (more bool, err error) {
	if s.buf == nil {
		s.buf = make([]byte, maxFrameData+frameOverhead)
	}
	n := copy(s.buf, s.have)
	want := min(int64(len(s.buf)-n), end-s.pos-int64(n))
	if want <= 0 {
		s.have = s.buf[:n]
		return false, nil
	}
	got, err := s.r.ReadAt(s.buf[n:n+int(want)], s.pos+int64(n))
	s.have = s.buf[:n+got]
	if got > 0 || errors.Is(err, io.EOF) {
		err = nil
	}
	return got > 0, err
}
