// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
)

// markPort is the I/O port of QEMU's isa-debugcon device: one byte written to
// it reaches the bench at once and costs the guest a handful of instructions.
const markPort = 0xe9

// probe returns a static x86-64 ELF program of some 150 bytes. Without
// arguments it writes 'C' to markPort and exits with 7. With one argument it
// writes 'C' and sleeps for ever. With two or more it writes the first byte of
// the second argument and exits with 0.
//
// It is machine code and not Go so that a container's first instruction is
// what is measured, and not the start of a language runtime.
func probe() []byte {
	code := []byte{
		0x48, 0x8b, 0x1c, 0x24, // mov rbx, [rsp]          argc
		0x48, 0x8b, 0x6c, 0x24, 0x18, // mov rbp, [rsp+24]  argv[2]
		0xb8, 0xad, 0x00, 0x00, 0x00, // mov eax, 173       ioperm(port, 1, 1)
		0xbf, markPort, 0x00, 0x00, 0x00, // mov edi, port
		0xbe, 0x01, 0x00, 0x00, 0x00, // mov esi, 1
		0xba, 0x01, 0x00, 0x00, 0x00, // mov edx, 1
		0x0f, 0x05, // syscall
		0x66, 0xba, markPort, 0x00, // mov dx, port
		0xb0, 'C', // mov al, 'C'
		0x83, 0xfb, 0x03, // cmp ebx, 3
		0x72, 0x03, // jb +3
		0x8a, 0x45, 0x00, // mov al, [rbp]
		0xee,             // out dx, al
		0x83, 0xfb, 0x02, // cmp ebx, 2
		0x74, 0x13, // je sleep (+19)
		0xbf, 0x00, 0x00, 0x00, 0x00, // mov edi, 0
		0x77, 0x05, // ja +5 (flags of the cmp still hold: mov keeps them)
		0xbf, 0x07, 0x00, 0x00, 0x00, // mov edi, 7
		0xb8, 0x3c, 0x00, 0x00, 0x00, // mov eax, 60        exit
		0x0f, 0x05, // syscall
		0xb8, 0x22, 0x00, 0x00, 0x00, // sleep: mov eax, 34 pause
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp sleep
	}
	return elf64(code)
}

const probeBase = 0x400000

// elf64 wraps code in the smallest well-formed static executable: an ELF
// header and one loadable segment.
func elf64(code []byte) []byte {
	const header, program = 64, 56
	le := binary.LittleEndian
	h := make([]byte, header+program)
	copy(h, "\x7fELF\x02\x01\x01")
	le.PutUint16(h[16:], 2)    // ET_EXEC
	le.PutUint16(h[18:], 0x3e) // EM_X86_64
	le.PutUint32(h[20:], 1)
	le.PutUint64(h[24:], probeBase+header+program)
	le.PutUint64(h[32:], header) // program headers
	le.PutUint16(h[52:], header)
	le.PutUint16(h[54:], program)
	le.PutUint16(h[56:], 1)
	p := h[header:]
	size := uint64(header + program + len(code))
	le.PutUint32(p[0:], 1) // PT_LOAD
	le.PutUint32(p[4:], 5) // R+X
	le.PutUint64(p[16:], probeBase)
	le.PutUint64(p[24:], probeBase)
	le.PutUint64(p[32:], size)
	le.PutUint64(p[40:], size)
	le.PutUint64(p[48:], 4096)
	return bytes.Join([][]byte{h, code}, nil)
}
