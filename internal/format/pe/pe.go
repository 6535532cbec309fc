// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package pe reads, extends and signs the programs that UEFI firmware runs
// (PE32+ files), and makes the variables by which firmware knows whom to trust.
//
// An Image is a parsed file; Append and Sign return the bytes of a new file and
// leave the old one alone. Every number of a file is checked before it is used:
// what is out of bounds, overlaps, or leaves bytes that no signature would
// cover is an error, because firmware and this package could then disagree
// about what is signed. Same input, same bytes: RSA signatures of PKCS #1 v1.5
// have no randomness, and no clock is read.
package pe

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

var little = binary.LittleEndian

// Where things are in a file. Offsets "of the optional header" count from it.
const (
	newHeaderAt    = 0x3c // in the DOS header: where the PE header begins
	fileHeader     = 24   // signature and COFF header
	optionalFixed  = 112  // optional header of PE32+ before its directories
	sectionBytes   = 40
	magic32Plus    = 0x20b
	machineAMD64   = 0x8664
	machineARM64   = 0xaa64
	securityEntry  = 4 // directory of the signatures
	directoryBytes = 8

	atSectionAlign = 32
	atFileAlign    = 36
	atImageBytes   = 56
	atHeaderBytes  = 60
	atChecksum     = 64
	atDirectories  = 108

	maxSections = 96
	maxBytes    = 2 << 30
)

// Section of a file.
type Section struct {
	Name    string
	Address uint32 // in memory, from the image's base
	Size    uint32 // in memory
	Offset  uint32 // in the file
	Stored  uint32 // bytes in the file
}

// Image is a parsed file.
type Image struct {
	Sections []Section
	data     []byte
	optional int // where the optional header begins
	table    int // where the section table begins
	headers  int // bytes that the headers take
	// signatures are the last bytes of the file; zero: there are none.
	signatures int
}

// Parse checks a file.
func Parse(data []byte) (*Image, error) {
	p := &Image{data: data}
	for _, step := range []func() error{p.parseHeaders, p.parseSections, p.parseSignatures, p.checkCover} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("read a PE file: %w", err)
		}
	}
	return p, nil
}

func (p *Image) parseHeaders() error {
	d := p.data
	if len(d) < newHeaderAt+4 || len(d) > maxBytes || d[0] != 'M' || d[1] != 'Z' {
		return errors.New("it is no PE file")
	}
	at := int64(little.Uint32(d[newHeaderAt:]))
	if at+fileHeader+optionalFixed > int64(len(d)) || string(d[at:at+4]) != "PE\x00\x00" {
		return errors.New("it has no PE header")
	}
	if m := little.Uint16(d[at+4:]); m != machineAMD64 && m != machineARM64 {
		return fmt.Errorf("it is for a machine of kind %#x", m)
	}
	size := int64(little.Uint16(d[at+20:]))
	p.optional = int(at + fileHeader)
	p.table = p.optional + int(size)
	if size < optionalFixed || p.table > len(d) || little.Uint16(d[p.optional:]) != magic32Plus {
		return errors.New("it is not PE32+")
	}
	directories := int64(p.u32(atDirectories))
	if directories <= securityEntry || directories*directoryBytes > size-optionalFixed {
		return fmt.Errorf("%d data directories", directories)
	}
	for _, at := range []int{atFileAlign, atSectionAlign} {
		if a := p.u32(at); a < 16 || a > 1<<16 || a&(a-1) != 0 {
			return fmt.Errorf("alignment of %d bytes", a)
		}
	}
	p.headers = int(p.u32(atHeaderBytes))
	if p.headers < p.table || p.headers > len(d) {
		return fmt.Errorf("headers of %d bytes", p.headers)
	}
	return nil
}

// u32 reads a field of the optional header.
func (p *Image) u32(at int) uint32 { return little.Uint32(p.data[p.optional+at:]) }

func (p *Image) securityAt() int { return p.optional + optionalFixed + securityEntry*directoryBytes }

func (p *Image) parseSections() error {
	n := int(little.Uint16(p.data[p.optional-18:]))
	if n == 0 || n > maxSections || p.table+n*sectionBytes > p.headers {
		return fmt.Errorf("%d sections", n)
	}
	for i := range n {
		h := p.data[p.table+i*sectionBytes:][:sectionBytes]
		s := Section{
			Name: string(bytes.TrimRight(h[:8], "\x00")), Size: little.Uint32(h[8:]), Address: little.Uint32(h[12:]),
			Stored: little.Uint32(h[16:]), Offset: little.Uint32(h[20:]),
		}
		if int64(s.Offset)+int64(s.Stored) > int64(len(p.data)) || int64(s.Address)+int64(s.Size) > maxBytes {
			return fmt.Errorf("section %q is outside of the file", s.Name)
		}
		p.Sections = append(p.Sections, s)
	}
	return nil
}

// parseSignatures finds the table of signatures, which must be the file's end.
func (p *Image) parseSignatures() error {
	at, size := little.Uint32(p.data[p.securityAt():]), little.Uint32(p.data[p.securityAt()+4:])
	if size == 0 && at == 0 {
		return nil
	}
	if int64(at)+int64(size) != int64(len(p.data)) || int64(at) < int64(p.headers) || at%8 != 0 {
		return errors.New("its signatures are not its end")
	}
	p.signatures = int(size)
	return nil
}

// checkCover wants headers and sections to follow one another without a gap
// and without overlap. Bytes after the last section are signed too.
func (p *Image) checkCover() error {
	stored := slices.DeleteFunc(slices.Clone(p.Sections), func(s Section) bool { return s.Stored == 0 })
	slices.SortFunc(stored, func(a, b Section) int { return cmp.Compare(a.Offset, b.Offset) })
	at := uint32(p.headers)
	for _, s := range stored {
		if s.Offset != at {
			return fmt.Errorf("section %q begins at %d, not where the one before it ends (%d)", s.Name, s.Offset, at)
		}
		at += s.Stored
	}
	if int64(at) > int64(len(p.data)-p.signatures) {
		return errors.New("a section lies in the signatures")
	}
	return nil
}

// Data returns the contents of a section; nil when there is none of that name.
func (p *Image) Data(name string) []byte {
	for _, s := range p.Sections {
		if s.Name == name {
			return p.data[s.Offset:][:min(s.Size, s.Stored)]
		}
	}
	return nil
}
