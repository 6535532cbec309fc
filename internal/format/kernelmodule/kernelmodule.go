// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package kernelmodule leaves out of a kernel module what a machine without
// tracers has no use for.
//
// Modules come with their distribution's signature and with tables for tracing
// and BPF. Loading them as they are costs 60 million instructions each for the
// signature, and 1.5 billion for XFS alone, whose functions ftrace looks up one
// by one. Here a module's bytes are part of an image that is checked as a
// whole, so where the kernel lets it (no lockdown) it is handed over without
// them. It marks itself tainted by an unsigned module then. What is no module
// stays as it is, for the kernel to judge.
package kernelmodule

import (
	"bytes"
	"encoding/binary"
)

// Trim returns a module without its signature, and changes the image so that
// the kernel passes over what is not needed.
func Trim(image []byte) []byte {
	image = unsigned(image)
	hideIdle(image)
	return image
}

// A signed module ends with the signature, a struct whose last four bytes are
// the signature's length, and this text (kernel: include/linux/module_signature.h).
const (
	signatureMark = "~Module signature appended~\n"
	signatureInfo = 12
)

// unsigned returns a module's image without the appended signature.
func unsigned(image []byte) []byte {
	rest, ok := bytes.CutSuffix(image, []byte(signatureMark))
	if !ok || len(rest) < signatureInfo {
		return image
	}
	n := uint64(binary.BigEndian.Uint32(rest[len(rest)-4:])) + signatureInfo
	if n > uint64(len(rest)) {
		return image
	}
	return rest[:uint64(len(rest))-n]
}

// idle are the sections that a machine without tracers never reads: call sites
// for ftrace, names of enums in trace formats, types for BPF programs.
var idle = []string{"__mcount_loc", "_ftrace_eval_map", ".BTF", ".BTF.base"}

// ELF64, little-endian (elf(5)): where fields lie.
const (
	elfHeader  = 64
	shoffAt    = 40
	shnumAt    = 60
	shstrndxAt = 62

	sectionHeader = 64
	flagsAt       = 8
	offsetAt      = 24
	sizeAt        = 32
	allocate      = 2 // SHF_ALLOC
)

// hideIdle makes the kernel pass over a module's idle sections: it changes the
// first letter of their names, so that they are not found, and takes back their
// wish for memory. An image that is not understood stays as it is, for the
// kernel to judge.
func hideIdle(image []byte) {
	le := binary.LittleEndian
	if len(image) < elfHeader || string(image[:6]) != "\x7fELF\x02\x01" {
		return
	}
	headers := cut(image, le.Uint64(image[shoffAt:]), uint64(le.Uint16(image[shnumAt:]))*sectionHeader)
	at := int(le.Uint16(image[shstrndxAt:])) * sectionHeader
	if at+sectionHeader > len(headers) {
		return
	}
	names := cut(image, le.Uint64(headers[at+offsetAt:]), le.Uint64(headers[at+sizeAt:]))
	for ; len(headers) >= sectionHeader; headers = headers[sectionHeader:] {
		name := uint64(le.Uint32(headers))
		if name >= uint64(len(names)) || !isIdle(names[name:]) {
			continue
		}
		names[name] = '-'
		le.PutUint64(headers[flagsAt:], le.Uint64(headers[flagsAt:])&^allocate)
	}
}

// isIdle also knows a name that was changed already: sections of one name share it.
func isIdle(name []byte) bool {
	for _, s := range idle {
		if len(name) > len(s) && string(name[1:len(s)]) == s[1:] && name[len(s)] == 0 && (name[0] == s[0] || name[0] == '-') {
			return true
		}
	}
	return false
}

// cut returns n bytes from offset, or nothing when they are not all there.
func cut(b []byte, offset, n uint64) []byte {
	if offset > uint64(len(b)) || n > uint64(len(b))-offset {
		return nil
	}
	return b[offset : offset+n]
}
