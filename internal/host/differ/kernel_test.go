// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package differ

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"

	"wherry.example/wherry/internal/format/delta"
)

// bootable is a kernel as Debian's are built: some code before and behind a payload that
// zstd has packed from a pipe.
func bootable(t *testing.T, content []byte) []byte {
	t.Helper()
	cmd := exec.Command("zstd", "-q", "-c", "-22", "--ultra")
	cmd.Stdin = bytes.NewReader(content)
	packed, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	packed = binary.LittleEndian.AppendUint32(packed, uint32(len(content)))
	const sectors, code = 7, 300
	b := append(words(31, (sectors+1)*sector+code), packed...)
	b[setupSectors] = sectors
	copy(b[bootMagic:], "HdrS")
	binary.LittleEndian.PutUint32(b[payloadOffset:], code)
	binary.LittleEndian.PutUint32(b[payloadLength:], uint32(len(packed)))
	return append(b, words(32, 5000)...)
}

// TestKernelApart finds the payload, and leaves whole what only looks like one.
func TestKernelApart(t *testing.T) {
	content := words(21, 100_000)
	kernel := bootable(t, content)
	frame, size, ok := payloadOf(kernel)
	if !ok || size != int64(len(content)) {
		t.Fatal(frame, size, ok)
	}
	change := func(at int64, v byte) []byte {
		b := bytes.Clone(kernel)
		b[at] ^= v
		return b
	}
	for name, c := range map[string]struct {
		kernel []byte
		pieces int
	}{
		"as it should be":         {kernel, 3},
		"no kernel":               {content, 1},
		"a length that lies":      {change(payloadLength+1, 1), 1},
		"beyond the end":          {change(payloadOffset+3, 0x7f), 1},
		"content that is shorter": {change(frame.Offset+frame.Bytes, 1), 1},
		"a damaged frame":         {change(frame.Offset, 1), 1},
		"too much content":        {change(frame.Offset+frame.Bytes+3, 0x7f), 1},
		"cut off":                 {kernel[:frame.Offset+frame.Bytes+2], 1},
	} {
		f := &File{data: c.kernel, byName: map[string]int{}}
		f.openKernel(delta.Range{Bytes: int64(len(c.kernel))})
		if len(f.pieces) != c.pieces {
			t.Errorf("%s: %d pieces, not %d", name, len(f.pieces), c.pieces)
		}
		var total int64
		for _, p := range f.pieces {
			total += p.Bytes
		}
		if total != int64(len(c.kernel)) {
			t.Errorf("%s: %d of %d bytes", name, total, len(c.kernel))
		}
	}
}

// table appends numbers of 4 bytes.
func table(numbers ...int) (b []byte) {
	for _, n := range numbers {
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	}
	return b
}

// aKernel has tables as Linux has them, of that many symbols; all code is shift further on.
func aKernel(count, shift int) (*program, []byte) {
	const base = 0xffffffff81000000
	rodata := table(5, 9, 1<<29, 0, 64, 128) // something else, and three that belong to processors
	var order []byte
	for i := range count {
		rodata = append(rodata, table(-1-16*i-shift)...)
	}
	for i := range count + 3 {
		n := (i * 7919) % (count + 3)
		order = append(order, byte(n>>16), byte(n>>8), byte(n))
	}
	rodata = append(rodata, make([]byte, -len(rodata)&7)...)
	rodata = append(binary.LittleEndian.AppendUint64(rodata, base), order...)
	orc := len(rodata)
	data := append(rodata, table(-1000+shift, -1004+shift, -1008+shift)...)
	section := func(name string, flags elf.SectionFlag, from, to int) *elf.Section {
		return &elf.Section{SectionHeader: elf.SectionHeader{Name: name, Flags: flags | elf.SHF_ALLOC, Addr: base + 1<<20 + uint64(from), Offset: uint64(from), FileSize: uint64(to - from)}}
	}
	p := &program{segments: []delta.Segment{{Address: -0x7ef00000, Bytes: int64(len(data))}}, sections: map[string]*elf.Section{}}
	for _, s := range []*elf.Section{section(".rodata", 0, 0, orc), section(".orc_unwind_ip", 0, orc, len(data))} {
		p.sections[s.Name] = s
		p.order = append(p.order, s)
	}
	p.sections[".text"] = &elf.Section{SectionHeader: elf.SectionHeader{Name: ".text", Addr: base}}
	return p, append(data, table(-0x7ef00000+shift, -0x7ef00000+shift+16)...)
}

// TestKernelTables: the tables of symbols are found, and what is compared does not
// change when all code moves.
func TestKernelTables(t *testing.T) {
	const count = 12_000
	a, old := aKernel(count, 0)
	b, data := aKernel(count, 0x1230)
	got, ok := a.findSymbols(old)
	if want := (symbols{count: count + 3, places: 12, negative: 24, order: 24 + 4*count + 8}); !ok || got != want {
		t.Fatalf("%+v, %t, not %+v", got, ok, want)
	}
	if !a.isKernel() {
		t.Error("it is no kernel")
	}
	changes := 0
	for x, y := a.comparable(old), b.comparable(data); len(x) > 0; x, y = x[1:], y[1:] {
		if x[0] != y[0] {
			changes++
		}
	}
	if most := 4 + 3 + 4 + 4; changes > most { // the first entry of each table
		t.Errorf("of what is compared %d bytes have changed, more than %d", changes, most)
	}
	var kinds []int
	for _, r := range append(kernelRules(a, old), symbolRules(a, b, old, data)...) {
		kinds = append(kinds, r.Kind)
	}
	if diff := cmp.Diff([]int{delta.Words, delta.Relative, delta.Halves, delta.Missing, delta.Ranks}, kinds); diff != "" {
		t.Error(diff)
	}
}
