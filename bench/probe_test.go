// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"debug/elf"
	"testing"
)

// TestProbe checks the file's form. What the code does is seen by each bench
// run: most kernels of build machines have no ioperm to try it with.
func TestProbe(t *testing.T) {
	f, err := elf.NewFile(bytes.NewReader(probe()))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Progs) != 1 || f.Progs[0].Type != elf.PT_LOAD || f.Progs[0].Filesz != uint64(len(probe())) {
		t.Errorf("program headers %+v, want one PT_LOAD that covers the file", f.Progs)
	}
	if code := f.Entry - f.Progs[0].Vaddr; code != 64+56 {
		t.Errorf("entry at offset %d, want right after the headers", code)
	}
}
