// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package petest makes small PE files for tests. They are whole, but nothing
// that a machine could run.
package petest

import "encoding/binary"

// Where the parts of a Stub are.
const (
	Header       = 0x80 // the PE header
	Optional     = Header + 24
	Directories  = Optional + 112
	SectionTable = Directories + 16*8
	HeaderBytes  = 0x400
	SectionBytes = 0x200
)

// Stub returns a PE32+ file with sections of those names, 256 bytes each, and
// room for more in its headers. It has a checksum and a symbol table, both wrong.
func Stub(names ...string) []byte {
	little := binary.LittleEndian
	b := make([]byte, HeaderBytes+SectionBytes*len(names))
	copy(b, "MZ")
	little.PutUint32(b[0x3c:], Header)
	copy(b[Header:], "PE\x00\x00")
	little.PutUint16(b[Header+4:], 0x8664)
	little.PutUint16(b[Header+6:], uint16(len(names)))
	little.PutUint32(b[Header+12:], 12345) // symbols
	little.PutUint16(b[Header+20:], SectionTable-Optional)
	little.PutUint16(b[Header+22:], 0x206)
	o := b[Optional:]
	little.PutUint16(o, 0x20b)
	little.PutUint32(o[16:], 0x1000) // entry point
	little.PutUint32(o[32:], 0x200)  // alignment in memory
	little.PutUint32(o[36:], 0x200)  // and in the file
	little.PutUint32(o[56:], uint32(0x1000*len(names)+0x200))
	little.PutUint32(o[60:], HeaderBytes)
	little.PutUint32(o[64:], 99) // checksum
	little.PutUint16(o[68:], 10) // EFI application
	little.PutUint32(o[108:], 16)
	for i, name := range names {
		h := b[SectionTable+40*i:]
		copy(h, name)
		little.PutUint32(h[8:], 0x100)
		little.PutUint32(h[12:], uint32(0x1000*(i+1)))
		little.PutUint32(h[16:], SectionBytes)
		little.PutUint32(h[20:], uint32(HeaderBytes+i*SectionBytes))
		little.PutUint32(h[36:], 0x60000020)
		copy(b[HeaderBytes+i*SectionBytes:], name)
	}
	return b
}
