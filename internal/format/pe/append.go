// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pe

import (
	"fmt"
	"slices"
)

// Added is a section to be appended.
type Added struct {
	Name string // at most 8 bytes
	Data []byte
}

const (
	// pageBytes is how sections are aligned in memory, also where the file asks
	// for less: the kernel and the initramfs are used where they are loaded.
	pageBytes = 4096
	// readable, initialised data
	characteristics = 0x40000040
)

// Append returns the file with sections added at its end. Signatures, symbols
// and the checksum are left out: they would be wrong.
func (p *Image) Append(sections ...Added) ([]byte, error) {
	end, address := p.ends()
	step := p.u32(atFileAlign)
	total := int64(end)
	for _, s := range sections {
		total += align(int64(len(s.Data)), int64(step))
	}
	if total > maxBytes || align(int64(end), int64(step)) != int64(end) {
		return nil, fmt.Errorf("append to a PE file: %d bytes are too many, or its end is not aligned", total)
	}
	out := slices.Grow(slices.Clone(p.data[:end]), int(total)-end)
	at := p.table + len(p.Sections)*sectionBytes
	for _, s := range sections {
		if at+sectionBytes > p.headers {
			return nil, fmt.Errorf("append section %s: the headers have no room for it", s.Name)
		}
		if len(s.Name) > 8 || len(s.Data) == 0 || p.Data(s.Name) != nil {
			return nil, fmt.Errorf("append section %s: its name is too long or taken, or it is empty", s.Name)
		}
		address = align(address, pageBytes)
		stored := align(int64(len(s.Data)), int64(step))
		if address+stored > maxBytes {
			return nil, fmt.Errorf("append section %s: the image is too large in memory", s.Name)
		}
		h := out[at:][:sectionBytes]
		clear(h)
		copy(h, s.Name)
		little.PutUint32(h[8:], uint32(len(s.Data)))
		little.PutUint32(h[12:], uint32(address))
		little.PutUint32(h[16:], uint32(stored))
		little.PutUint32(h[20:], uint32(len(out)))
		little.PutUint32(h[36:], characteristics)
		out = append(out, s.Data...)
		out = append(out, make([]byte, stored-int64(len(s.Data)))...)
		address += stored
		at += sectionBytes
	}
	p.finish(out, len(p.Sections)+len(sections), align(address, pageBytes))
	return out, nil
}

// ends returns where the last section ends, in the file and in memory.
func (p *Image) ends() (file int, memory int64) {
	file = p.headers
	for _, s := range p.Sections {
		file = max(file, int(s.Offset+s.Stored))
		memory = max(memory, int64(s.Address)+int64(max(s.Size, s.Stored)))
	}
	return file, memory
}

// finish brings the headers of the new file up to date.
func (p *Image) finish(out []byte, sections int, imageBytes int64) {
	coff := p.optional - 20
	little.PutUint16(out[coff+2:], uint16(sections))
	clear(out[coff+4 : coff+16]) // time, symbol table, number of symbols
	little.PutUint32(out[p.optional+atImageBytes:], uint32(imageBytes))
	clear(out[p.optional+atChecksum:][:4])
	clear(out[p.securityAt():][:directoryBytes])
}

func align(n, step int64) int64 { return (n + step - 1) / step * step }
