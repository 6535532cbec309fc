// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package disklayout

import (
	"testing"

	"wherry.example/wherry/internal/format/gpt"
)

func TestRoom(t *testing.T) {
	const blocks = 2 << 30 / 512
	fresh := func() *gpt.Table { return Fresh(gpt.GUID{1}, gpt.GUID{2}, 512, blocks) }
	for name, c := range map[string]struct {
		change func(*gpt.Table)
		first  uint64 // 0: not Wherry's
	}{
		"fresh":              {func(*gpt.Table) {}, 514 << 20 / 512},
		"odd end":            {func(t *gpt.Table) { t.Partitions[0].Last += 5 }, 515 << 20 / 512},
		"full":               {func(t *gpt.Table) { _, t.Partitions[0].Last = t.Span() }, blocks},
		"another's ESP":      {func(t *gpt.Table) { t.Partitions[0].Name = "EFI System" }, 0},
		"another's data":     {func(t *gpt.Table) { t.Partitions[0].Type = gpt.GUID{9} }, 0},
		"nothing":            {func(t *gpt.Table) { t.Partitions = nil }, 0},
		"one partition more": {func(t *gpt.Table) { t.Partitions = append(t.Partitions, gpt.Partition{Type: gpt.GUID{9}}) }, 0},
		"behind a gap":       {func(t *gpt.Table) { t.Partitions = append([]gpt.Partition{{}}, t.Partitions...) }, 0},
	} {
		table := fresh()
		c.change(table)
		first, last, ok := Room(table)
		if ok != (c.first != 0) || ok && (first != c.first || last != blocks-2048-1) {
			t.Errorf("%s: %d to %d, %v", name, first, last, ok)
		}
	}
	if _, err := fresh().Writes(); err != nil {
		t.Error(err)
	}
}
