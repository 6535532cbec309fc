// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package torndisk

import (
	"io"
	"os"
)

// store is where a disk's contents are.
type store interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
}

const pageBytes = 4096

// overlay is a file whose changes are in memory, and go with it.
type overlay struct {
	base  *os.File
	pages map[int64]*[pageBytes]byte
}

func openOverlay(path string) (*overlay, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &overlay{base: f, pages: map[int64]*[pageBytes]byte{}}, nil
}

func (o *overlay) ReadAt(p []byte, at int64) (int, error) {
	if len(o.pages) == 0 {
		return o.base.ReadAt(p, at)
	}
	if _, err := o.base.ReadAt(p, at); err != nil {
		return 0, err
	}
	pieces(p, at, func(part []byte, n int64, from int) error {
		if page := o.pages[n]; page != nil {
			copy(part, page[from:])
		}
		return nil
	})
	return len(p), nil
}

func (o *overlay) WriteAt(p []byte, at int64) (int, error) {
	err := pieces(p, at, func(part []byte, n int64, from int) error {
		page := o.pages[n]
		if page == nil {
			page = new([pageBytes]byte)
			// The file may end within its last page.
			if _, err := o.base.ReadAt(page[:], n*pageBytes); err != nil && err != io.EOF {
				return err
			}
			o.pages[n] = page
		}
		copy(page[from:], part)
		return nil
	})
	return len(p), err
}

// pieces calls do for what lies in each page.
func pieces(p []byte, at int64, do func(part []byte, page int64, from int) error) error {
	for len(p) > 0 {
		from := int(at % pageBytes)
		n := min(len(p), pageBytes-from)
		if err := do(p[:n], at/pageBytes, from); err != nil {
			return err
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}

func (o *overlay) Close() error { return o.base.Close() }
