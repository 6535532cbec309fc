// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pclntab

import (
	"bytes"
	"debug/buildinfo"
	"debug/elf"
	"encoding/binary"
	"strings"
	"testing"
)

// bare is a program that does without the runtime: it writes a word and ends.
var bare = map[string]string{
	"go.mod":  "module bare.example\n\ngo 1.26\n",
	"main.go": "package main\n\nfunc entry()\n\nfunc main() {}\n",
	"entry.s": `#include "textflag.h"

TEXT ·entry(SB), NOSPLIT|NOFRAME, $0
	MOVQ $1, AX
	MOVQ $1, DI
	LEAQ ·word(SB), SI
	MOVQ $5, DX
	SYSCALL
	MOVQ $60, AX
	MOVQ $0, DI
	SYSCALL

DATA ·word(SB)/5, $"bare\n"
GLOBL ·word(SB), RODATA|NOPTR, $5
`,
}

func buildBare(t *testing.T) []byte {
	t.Helper()
	return link(t, bare, "-s -w -E=main.entry")
}

// TestOnlyCode: the program runs as before, and its list of modules is there.
func TestOnlyCode(t *testing.T) {
	b := buildBare(t)
	left, err := OnlyCode(b, ofMain)
	if err != nil || left < len(b)/2 {
		t.Fatalf("left out %d of %d bytes, %v", left, len(b), err)
	}
	if got := run(t, b); got != "bare\n" {
		t.Errorf("it says %q", got)
	}
	info, err := buildinfo.Read(bytes.NewReader(b))
	if err != nil || info.Main.Path != "bare.example" {
		t.Errorf("%+v, %v", info, err)
	}
	if _, err := OnlyCode(b, ofMain); err == nil {
		t.Error("it was done twice")
	}
}

func TestOnlyCodeRefuses(t *testing.T) {
	good := buildBare(t)
	f, err := elf.NewFile(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	at := int(f.Section(".gopclntab").Offset)
	funcs := at + int(binary.LittleEndian.Uint64(good[at+64:]))
	const machineAt, entryAt = 18, 24
	for name, change := range map[string]func([]byte){
		"another machine":  func(b []byte) { b[machineAt] = 183 },
		"another entry":    func(b []byte) { b[entryAt]++ },
		"entry before all": func(b []byte) { clear(b[entryAt : entryAt+8]) },
		"record far away":  func(b []byte) { b[funcs+7] = 0xff },
		"no table":         func(b []byte) { clear(b[at : at+8]) },
		"not ELF":          func(b []byte) { b[0] = 0 },
	} {
		b := bytes.Clone(good)
		change(b)
		before := bytes.Clone(b)
		if _, err := OnlyCode(b, ofMain); err == nil {
			t.Errorf("%s: no error", name)
		}
		if !bytes.Equal(b, before) {
			t.Errorf("%s: the program was changed", name)
		}
	}
	if _, err := OnlyCode(bytes.Clone(good), func(name string) bool { return strings.HasPrefix(name, "runtime.") }); err == nil {
		t.Error("a program was taken that begins in what is left out")
	}
}
