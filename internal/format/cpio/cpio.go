// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package cpio writes cpio archives in the "new ASCII" format (070701), the
// one that the kernel unpacks as an initramfs.
//
// Entries are written in the order given; the kernel needs a directory before
// what lies in it. Everything that could differ between two builds is fixed:
// inode numbers count up from 1, owner is root, the time is the caller's.
// Archives may follow one another in an initramfs, compressed each in its own
// way, when the caller pads each to four bytes (Close pads to 512).
package cpio

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

const (
	magic   = "070701"
	trailer = "TRAILER!!!"
	block   = 512
)

// Header describes one entry.
type Header struct {
	Name  string
	Mode  uint32 // type and permission bits as in stat(2)
	Time  time.Time
	Size  int64
	Major uint32 // of a device
	Minor uint32
}

// Writer writes one archive.
type Writer struct {
	w       io.Writer
	written int64
	left    int64
	inode   uint32
}

// NewWriter writes to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// WriteHeader begins an entry; its Size bytes follow through Write.
func (c *Writer) WriteHeader(h Header) error {
	if c.left != 0 {
		return fmt.Errorf("cpio: %d bytes of the last entry are missing", c.left)
	}
	if h.Size < 0 || h.Size > math.MaxUint32 {
		return fmt.Errorf("cpio: %s: size %d does not fit the format", h.Name, h.Size)
	}
	if h.Name == "" || h.Name == trailer || strings.IndexByte(h.Name, 0) >= 0 {
		return fmt.Errorf("cpio: bad name %q", h.Name)
	}
	if err := c.pad(4); err != nil {
		return err
	}
	c.inode++
	return c.header(h, c.inode)
}

func (c *Writer) header(h Header, inode uint32) error {
	links := 1
	if h.Mode&0o170000 == 0o040000 {
		links = 2
	}
	var mtime int64
	if !h.Time.IsZero() {
		mtime = h.Time.Unix()
	}
	_, err := fmt.Fprintf(counter{c}, "%s%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", magic,
		inode, h.Mode, 0, 0, links, uint32(mtime), uint32(h.Size), 0, 0, h.Major, h.Minor, len(h.Name)+1, 0, h.Name)
	if err != nil {
		return fmt.Errorf("cpio: %s: %w", h.Name, err)
	}
	c.left = h.Size
	return c.pad(4)
}

// Write writes content of the current entry.
func (c *Writer) Write(p []byte) (int, error) {
	if int64(len(p)) > c.left {
		return 0, fmt.Errorf("cpio: %d bytes more than the header said", int64(len(p))-c.left)
	}
	n, err := counter{c}.Write(p)
	c.left -= int64(n)
	return n, err
}

// Close writes the trailer and pads the archive to a block.
func (c *Writer) Close() error {
	if c.left != 0 {
		return fmt.Errorf("cpio: %d bytes of the last entry are missing", c.left)
	}
	if err := c.pad(4); err != nil {
		return err
	}
	if err := c.header(Header{Name: trailer}, 0); err != nil {
		return err
	}
	return c.pad(block)
}

func (c *Writer) pad(to int64) error {
	if n := (to - c.written%to) % to; n > 0 {
		_, err := counter{c}.Write(make([]byte, n))
		return err
	}
	return nil
}

// counter writes through and counts, so that padding knows where it is.
type counter struct{ c *Writer }

func (k counter) Write(p []byte) (int, error) {
	n, err := k.c.w.Write(p)
	k.c.written += int64(n)
	return n, err
}
