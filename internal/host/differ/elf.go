// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package differ

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"slices"

	"wherry.example/wherry/internal/format/delta"
)

// program is what predictions need of an executable.
type program struct {
	segments []delta.Segment
	sections map[string]*elf.Section
	blank    []*elf.Section // not in the file
	order    []*elf.Section
	module   []int64 // words of Go's moduledata; nil: not Go, or of an unknown layout
}

// Words of Go's moduledata (1.20 to 1.26).
const (
	wordHeader  = 0
	wordNames   = 1
	wordTables  = 10
	wordRecords = 13
	wordFuncs   = 16
	wordText    = 22
	wordTypes   = 37
	wordTypeEnd = 38
	wordGoFunc  = 40
	wordCount   = 41
)

func parseProgram(data []byte) *program {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil || f.Machine != elf.EM_X86_64 || f.Class != elf.ELFCLASS64 {
		return nil
	}
	p := &program{sections: map[string]*elf.Section{}}
	for _, s := range f.Progs {
		if s.Type == elf.PT_LOAD && s.Filesz > 0 && s.Off+s.Filesz <= uint64(len(data)) && isAddress(s.Vaddr) {
			p.segments = append(p.segments, delta.Segment{Offset: int64(s.Off), Address: int64(s.Vaddr), Bytes: int64(s.Filesz)})
		}
	}
	for _, s := range f.Sections {
		if s.Type == elf.SHT_NOBITS && s.Flags&elf.SHF_ALLOC != 0 && s.Flags&elf.SHF_TLS == 0 && isAddress(s.Addr) {
			p.blank = append(p.blank, s)
		}
		if s.Type == elf.SHT_NOBITS || s.Type == elf.SHT_NULL || s.FileSize == 0 || s.Offset+s.FileSize > uint64(len(data)) {
			continue
		}
		p.sections[s.Name] = s
		p.order = append(p.order, s)
	}
	if len(p.segments) == 0 {
		return nil
	}
	p.findModule(data)
	return p
}

// findModule reads Go's moduledata. It begins with the address of .gopclntab.
func (p *program) findModule(data []byte) {
	table, module := p.sections[".gopclntab"], p.sections[".go.module"]
	if table == nil || module == nil || module.FileSize < 8*wordCount {
		return
	}
	words := make([]int64, wordCount)
	for i := range words {
		words[i] = int64(binary.LittleEndian.Uint64(data[module.Offset+8*uint64(i):]))
	}
	inTable := func(a int64) bool { return a > int64(table.Addr) && a < int64(table.Addr+table.FileSize) }
	if words[wordHeader] == int64(table.Addr) && inTable(words[wordNames]) && inTable(words[wordRecords]) && words[wordTypeEnd] >= words[wordTypes] {
		p.module = words
	}
}

// isAddress leaves out what a delta can't say. A kernel's addresses count as negative.
func isAddress(a uint64) bool { return int64(a) < 1<<61 && int64(a) > -1<<61 }

// predictionFor tells where addresses are in a program that was built anew.
func predictionFor(old, data []byte) delta.Prediction {
	o, n := parseProgram(old), parseProgram(data)
	if o == nil || n == nil {
		return delta.Prediction{}
	}
	p := delta.Prediction{Old: o.segments, New: n.segments}
	for _, s := range o.blank {
		for _, to := range n.blank {
			if s.Name == to.Name && s.Size < 1<<30 {
				p.Blank = append(p.Blank, delta.Blank{Old: int64(s.Addr), New: int64(to.Addr), Bytes: int64(s.Size)})
			}
		}
	}
	add := func(r delta.Rule) { p.Rules = append(p.Rules, r) }
	if o.isKernel() {
		p.Rules = append(kernelRules(o, old), symbolRules(o, n, old, data)...)
		return p
	}
	for _, s := range o.order {
		at := delta.Range{Offset: int64(s.Offset), Bytes: int64(s.FileSize)}
		switch {
		case s.Flags&elf.SHF_ALLOC == 0:
		case s.Flags&elf.SHF_EXECINSTR != 0:
			add(delta.Rule{Kind: delta.Code, Range: at})
		case s.Name == ".gopclntab" || s.Name == ".typelink" || s.Name == ".eh_frame":
		default:
			add(delta.Rule{Kind: delta.Words, Range: at})
		}
	}
	if o.module != nil && n.module != nil {
		p.Rules = append(p.Rules, goRules(o, n)...)
	}
	return p
}

// goRules are those for the tables of Go's runtime.
func goRules(o, n *program) []delta.Rule {
	var rules []delta.Rule
	table := o.sections[".gopclntab"]
	end := int64(table.Addr + table.FileSize)
	if from, ok := o.offset(o.module[wordFuncs]); ok && end > o.module[wordFuncs] {
		r := delta.Rule{Kind: delta.GoFunc, Range: delta.Range{Offset: from, Bytes: end - o.module[wordFuncs]}}
		for _, w := range []int{wordText, wordRecords, wordNames, wordTables, wordGoFunc} {
			r.OldBases, r.NewBases = append(r.OldBases, o.module[w]), append(r.NewBases, n.module[w])
		}
		rules = append(rules, r)
	}
	types, typeEnd := o.module[wordTypes], o.module[wordTypeEnd]
	offsets := func(at delta.Range) {
		rules = append(rules, delta.Rule{Kind: delta.Table, Range: at, Stride: 4, Limit: typeEnd - types, OldBases: []int64{types}, NewBases: []int64{n.module[wordTypes]}})
	}
	if s := o.sections[".typelink"]; s != nil {
		offsets(delta.Range{Offset: int64(s.Offset), Bytes: int64(s.FileSize)})
	}
	if from, ok := o.offset(types); ok {
		offsets(delta.Range{Offset: from, Bytes: typeEnd - types})
	}
	return slices.DeleteFunc(rules, func(r delta.Rule) bool { return r.Bytes <= 0 || slices.Min(append(r.OldBases, r.NewBases...)) < 0 })
}

func (p *program) offset(address int64) (int64, bool) {
	for _, s := range p.segments {
		if address >= s.Address && address < s.Address+s.Bytes {
			return s.Offset + address - s.Address, true
		}
	}
	return 0, false
}
