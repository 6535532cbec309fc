// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package ar reads the ar archives that Debian packages are: a fixed magic,
// then members with a 60-byte header each. Only short names are known, which
// is all that .deb files use. The reader trusts nothing: sizes are bounded by
// what the stream really holds, and a broken header ends it with an error.
package ar

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	magic      = "!<arch>\n"
	headerSize = 60
)

// Reader walks over the members of an archive, like tar.Reader.
type Reader struct {
	r       io.Reader
	left    int64 // of the current member
	padding int64
	started bool
}

// NewReader reads the archive in r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next goes to the next member and returns its name and size, or io.EOF.
func (a *Reader) Next() (name string, size int64, err error) {
	if err := a.skip(); err != nil {
		return "", 0, err
	}
	var h [headerSize]byte
	if _, err := io.ReadFull(a.r, h[:]); errors.Is(err, io.EOF) {
		return "", 0, io.EOF
	} else if err != nil {
		return "", 0, fmt.Errorf("read ar header: %w", err)
	}
	if h[58] != '`' || h[59] != '\n' {
		return "", 0, errors.New("read ar header: bad end mark")
	}
	size, err = strconv.ParseInt(strings.TrimRight(string(h[48:58]), " "), 10, 64)
	if err != nil || size < 0 {
		return "", 0, fmt.Errorf("read ar header: bad size %q", h[48:58])
	}
	a.left, a.padding = size, size%2
	return strings.TrimSuffix(strings.TrimRight(string(h[:16]), " "), "/"), size, nil
}

// skip passes what is left of the current member, or the magic at the start.
func (a *Reader) skip() error {
	if !a.started {
		a.started = true
		m := make([]byte, len(magic))
		if _, err := io.ReadFull(a.r, m); err != nil || string(m) != magic {
			return errors.New("not an ar archive")
		}
		return nil
	}
	n := a.left + a.padding
	a.left, a.padding = 0, 0
	got, err := io.CopyN(io.Discard, a.r, n)
	if errors.Is(err, io.EOF) && n-got <= 1 {
		return nil // the last member's padding may be missing
	}
	if err != nil {
		return fmt.Errorf("skip ar member: %w", err)
	}
	return nil
}

// Read reads the current member.
func (a *Reader) Read(p []byte) (int, error) {
	if a.left == 0 {
		return 0, io.EOF
	}
	n, err := a.r.Read(p[:min(int64(len(p)), a.left)])
	a.left -= int64(n)
	if errors.Is(err, io.EOF) && a.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	if a.left > 0 || !errors.Is(err, io.EOF) {
		return n, err
	}
	return n, nil
}
