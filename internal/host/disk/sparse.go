// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"fmt"
	"io"
)

// sparse is a disk in memory. Pages that nobody wrote are zeros and take no room.
type sparse struct {
	size  int64
	pages map[int64][]byte
}

const pageBytes = 64 << 10

func (s *sparse) WriteAt(p []byte, at int64) (int, error) {
	if at < 0 || at+int64(len(p)) > s.size {
		return 0, fmt.Errorf("%d bytes at %d are outside of the disk of %d", len(p), at, s.size)
	}
	if s.pages == nil {
		s.pages = map[int64][]byte{}
	}
	n := 0
	for n < len(p) {
		page, offset := (at+int64(n))/pageBytes, (at+int64(n))%pageBytes
		if s.pages[page] == nil {
			s.pages[page] = make([]byte, pageBytes)
		}
		n += copy(s.pages[page][offset:], p[n:])
	}
	return n, nil
}

func (s *sparse) ReadAt(p []byte, at int64) (int, error) {
	if at < 0 || at >= s.size {
		return 0, io.EOF
	}
	var end error
	if left := s.size - at; int64(len(p)) > left {
		p, end = p[:left], io.EOF
	}
	n := 0
	for n < len(p) {
		page, offset := (at+int64(n))/pageBytes, (at+int64(n))%pageBytes
		part := p[n:min(len(p), n+int(pageBytes-offset))]
		if data := s.pages[page]; data != nil {
			copy(part, data[offset:])
		} else {
			clear(part)
		}
		n += len(part)
	}
	return n, end
}
