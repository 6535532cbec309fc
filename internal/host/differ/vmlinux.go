// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package differ

import (
	"debug/elf"
	"encoding/binary"
	"slices"

	"wherry.example/wherry/internal/format/delta"
)

// isKernel tells whether a program is Linux: at addresses of the upper half.
func (p *program) isKernel() bool {
	for _, s := range p.segments {
		if s.Address < 0 && p.sections[".orc_unwind_ip"] != nil {
			return true
		}
	}
	return false
}

// kernelTable is a section of Linux that holds distances from the place itself.
type kernelTable struct {
	section string
	stride  int64
	fields  []int64 // offsets in each entry
}

// kernelTables are those of Linux 6.12 for x86-64 that fill sections of their own.
var kernelTables = []kernelTable{
	{"__ksymtab", 4, []int64{0}}, {"__ksymtab_gpl", 4, []int64{0}},
	{"__ex_table", 12, []int64{0, 4}},
	{"__bug_table", 12, []int64{0, 4}},
	{".orc_unwind_ip", 4, []int64{0}},
	{".retpoline_sites", 4, []int64{0}}, {".return_sites", 4, []int64{0}}, {".call_sites", 4, []int64{0}}, {".ibt_endbr_seal", 4, []int64{0}},
	{".altinstructions", 14, []int64{0, 4}},
	{".smp_locks", 4, []int64{0}},
}

// kernelRules tell where addresses are in an unpacked kernel. Behind its sections
// lies the list of places to relocate, as lower halves of addresses.
func kernelRules(p *program, data []byte) (rules []delta.Rule) {
	bytes := int64(len(data))
	tables := map[string]kernelTable{}
	for _, t := range kernelTables {
		tables[t.section] = t
	}
	var end int64
	for _, s := range p.order {
		at := delta.Range{Offset: int64(s.Offset), Bytes: int64(s.FileSize)}
		end = max(end, at.Offset+at.Bytes)
		t, isTable := tables[s.Name]
		switch {
		case isTable:
			for _, f := range t.fields {
				rules = append(rules, delta.Rule{Kind: delta.Relative, Range: delta.Range{Offset: at.Offset + f, Bytes: at.Bytes - f}, Stride: t.stride})
			}
		case s.Flags&elf.SHF_ALLOC == 0 || s.Name == ".orc_unwind" || s.Name == ".BTF":
		case s.Flags&elf.SHF_EXECINSTR != 0:
			rules = append(rules, delta.Rule{Kind: delta.Kernel, Range: at})
		default:
			rules = append(rules, delta.Rule{Kind: delta.Words, Range: at})
		}
	}
	const alignment = 4
	end = (end + alignment - 1) &^ (alignment - 1)
	if end < bytes {
		rules = append(rules, delta.Rule{Kind: delta.Halves, Range: delta.Range{Offset: end, Bytes: bytes - end}, Stride: alignment})
	}
	return rules
}

// minSymbols is the least that a table of symbols has.
const minSymbols = 10_000

// symbols are Linux's tables of symbols, as offsets in the file.
type symbols struct {
	count    int64
	places   int64 // kallsyms_offsets: of each, by its address
	negative int64 // where in it the negative entries begin
	order    int64 // kallsyms_seqs_of_names: the number of each, by its name
}

// findSymbols looks in the read-only data for the longest row of descending negative numbers: these
// count from the beginning of the code. Before it are those of the processors' own data, which
// ascend; behind it the base, and then the order of the names.
func (p *program) findSymbols(data []byte) (s symbols, ok bool) {
	section := p.sections[".rodata"]
	if section == nil {
		return s, false
	}
	begin, end := int64(section.Offset+3)&^3, int64(section.Offset+section.FileSize)
	at := func(i int64) int32 { return int32(binary.LittleEndian.Uint32(data[i:])) }
	var to int64
	for i := begin; i+4 <= end; i += 4 {
		from := i
		for last := int32(-1); i+4 <= end && at(i) <= last && at(i) >= -maxPayload; i += 4 {
			last = at(i)
		}
		if i-from > to-s.negative {
			s.negative, to = from, i
		}
	}
	s.places = s.negative
	for last := int32(maxPayload); s.places > begin && at(s.places-4) >= 0 && at(s.places-4) <= last; s.places -= 4 {
		last = at(s.places - 4)
	}
	s.count = (to - s.places) / 4
	s.order = (to+7)&^7 + 8
	return s, s.count >= minSymbols && s.order+3*s.count <= end
}

// symbolRules are those for both tables.
func symbolRules(o, n *program, old, data []byte) []delta.Rule {
	from, ok1 := o.findSymbols(old)
	to, ok2 := n.findSymbols(data)
	text, newText := o.sections[".text"], n.sections[".text"]
	rodata, newRodata := o.sections[".rodata"], n.sections[".rodata"]
	if !ok1 || !ok2 || text == nil || newText == nil {
		return nil
	}
	return []delta.Rule{
		{Kind: delta.Missing, Range: delta.Range{Offset: from.negative, Bytes: from.places + 4*from.count - from.negative},
			OldBases: []int64{int64(text.Addr)}, NewBases: []int64{int64(newText.Addr)}},
		{Kind: delta.Ranks, Range: delta.Range{Offset: from.order, Bytes: 3 * from.count},
			OldBases: []int64{int64(rodata.Addr-rodata.Offset) + from.places}, NewBases: []int64{int64(newRodata.Addr-newRodata.Offset) + to.places}},
	}
}

// comparable is what to compare instead of two contents: entries of a kernel's
// tables tell where something is, and when that moves nothing in them is as it was; how far
// it is from one to the next stays.
func comparable(old, data []byte) (a, b []byte) {
	o, n := parseProgram(old), parseProgram(data)
	if o == nil || n == nil || !o.isKernel() || !n.isKernel() {
		return old, data
	}
	return o.comparable(old), n.comparable(data)
}

func (p *program) comparable(data []byte) []byte {
	out := steps(data, append(kernelRules(p, data), symbolRules(p, p, data, data)...))
	if s, ok := p.findSymbols(data); ok {
		s.sizes(out, data)
	}
	return out
}

// sizes replaces the numbers of symbols, in the order of their names, by how large they are.
func (s symbols) sizes(out, data []byte) {
	for i := range s.count {
		at := s.order + 3*i
		number := int64(data[at])<<16 | int64(data[at+1])<<8 | int64(data[at+2])
		if number+1 >= s.count {
			continue
		}
		place := data[s.places+4*number:]
		size := binary.LittleEndian.Uint32(place) - binary.LittleEndian.Uint32(place[4:])
		out[at], out[at+1], out[at+2] = byte(size>>16), byte(size>>8), byte(size)
	}
}

// steps replaces entries of tables by how much they are more than the ones before.
func steps(data []byte, rules []delta.Rule) []byte {
	out := slices.Clone(data)
	for _, r := range rules {
		switch r.Kind {
		case delta.Relative, delta.Halves:
		case delta.Missing:
			r.Stride = 4
		case delta.Words:
			wordSteps(out, data, r.Range)
			continue
		default:
			continue
		}
		var last uint32
		for at := r.Offset; at+4 <= r.Offset+r.Bytes; at += r.Stride {
			v := binary.LittleEndian.Uint32(data[at:])
			binary.LittleEndian.PutUint32(out[at:], v-last)
			last = v
		}
	}
	return out
}

// wordSteps does it with addresses in aligned words, of the same upper half as the one before.
func wordSteps(out, data []byte, r delta.Range) {
	var last uint64
	for at := (r.Offset + 7) &^ 7; at+8 <= r.Offset+r.Bytes; at += 8 {
		v := binary.LittleEndian.Uint64(data[at:])
		if v>>32 != 1<<32-1 {
			continue
		}
		if last != 0 {
			binary.LittleEndian.PutUint32(out[at:], uint32(v-last))
		}
		last = v
	}
}
