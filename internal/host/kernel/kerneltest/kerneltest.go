// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package kerneltest makes kernel modules for tests of the image build: real ELF
// files that tools and our own parser read, which no kernel would load.
package kerneltest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
)

// Module builds a kernel module that has nothing but a .modinfo with the
// "key=value" strings given.
func Module(info ...string) []byte {
	modinfo := []byte(strings.Join(info, "\x00") + "\x00")
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	const headerSize, sectionSize = 64, 64
	at := uint64(headerSize)
	var b bytes.Buffer
	h := elf.Header64{
		Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: headerSize,
		Shentsize: sectionSize, Shnum: 3, Shstrndx: 2, Shoff: at + uint64(len(modinfo)+len(names)),
	}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	sections := []elf.Section64{{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: at, Size: uint64(len(modinfo))},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: at + uint64(len(modinfo)), Size: uint64(len(names))},
	}
	for _, part := range []any{h, modinfo, names, sections} {
		_ = binary.Write(&b, binary.LittleEndian, part)
	}
	return b.Bytes()
}
