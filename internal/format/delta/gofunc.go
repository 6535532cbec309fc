// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package delta

import "io"

// Go's table of functions (.gopclntab of Go 1.20 and later) begins with pairs of
// a function's entry and its record's place, sorted. A record holds
// more offsets: of the name, of tables by instruction, of data in .rodata. All count from
// bases, which is why one moved function changes most records.

// Bases of a GoFunc rule, by their index.
const (
	baseText = iota
	baseRecords
	baseNames
	baseTables
	baseData
	goBases
)

// site is a 4-byte offset in the old object, and which base of which rule it
// counts from.
type site struct {
	offset     uint32
	rule, base uint8
}

// Layout of a record.
const (
	recordBytes  = 44
	recordName   = 4
	recordTables = 16 // three of them: stack sizes, files, lines
	recordCount  = 28 // of the tables behind the record
	recordData   = 43 // count of the data offsets behind those, one byte

	maxGoTable = 16 << 20
	maxSites   = 1 << 20
)

// findGoFunc lists the offsets in the range of a rule: pairs and records up to
// its end. What does not look right ends the list.
func (p *Predictor) findGoFunc(rule int, old io.ReaderAt) error {
	r := p.Rules[rule]
	if r.Bytes > maxGoTable {
		return nil
	}
	b := make([]byte, r.Bytes)
	if _, err := old.ReadAt(b, r.Offset); err != nil {
		return err
	}
	add := func(at int, base int) {
		p.sites = append(p.sites, site{uint32(r.Offset) + uint32(at), uint8(rule), uint8(base)})
	}
	records := -1
	for i := 0; i+12 <= len(b) && len(p.sites) < maxSites; i += 8 {
		at := int(little.Uint32(b[i+4:]))
		if records < 0 {
			records = at // the first record follows the pairs
		}
		if i+8 > records || at < 0 || at > len(b)-recordBytes {
			break // behind the last pair
		}
		add(i, baseText)
		add(i+4, baseRecords)
		addRecord(b, at, add)
	}
	return nil
}

func addRecord(b []byte, at int, add func(at, base int)) {
	add(at, baseText)
	add(at+recordName, baseNames)
	for i := range 3 {
		if f := at + recordTables + 4*i; little.Uint32(b[f:]) != 0 {
			add(f, baseTables)
		}
	}
	tables, data := int(little.Uint32(b[at+recordCount:])), int(b[at+recordData])
	f := at + recordBytes
	if tables > 16 || f+4*(tables+data) > len(b) {
		return
	}
	for i := range tables + data {
		v := little.Uint32(b[f+4*i:])
		switch {
		case i < tables && v != 0:
			add(f+4*i, baseTables)
		case i >= tables && v != 1<<32-1:
			add(f+4*i, baseData)
		}
	}
}

// correctSites corrects the offsets that lie wholly in b.
func (p *Predictor) correctSites(b []byte, old int64) {
	i := p.firstSite(old)
	for ; i < len(p.sites); i++ {
		at := int64(p.sites[i].offset) - old
		if at+4 > int64(len(b)) {
			return
		}
		r := p.Rules[p.sites[i].rule]
		p.correctOffset(b[at:], r.OldBases[p.sites[i].base], r.NewBases[p.sites[i].base])
	}
}

func (p *Predictor) firstSite(offset int64) int {
	low, high := 0, len(p.sites)
	for low < high {
		if mid := (low + high) / 2; int64(p.sites[mid].offset) < offset {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low
}
