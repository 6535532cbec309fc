// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package disklayout says what Wherry's own disks look like: the host makes
// them with the boot partition alone, the machine adds the state partition
// behind it at its first boot. It does no I/O.
package disklayout

import "wherry.example/wherry/internal/format/gpt"

const (
	// BootName is the name of the partition that the firmware boots from: the
	// first, of type gpt.TypeESP.
	BootName = "wherry-boot"
	// BootBytes is the boot partition's size. It can't grow later, so it has
	// room for several times the three OS files that updates need.
	BootBytes = 512 << 20

	// LiveName is the name of the only partition of a live medium, and LiveLabel
	// what a CD is called that has the same bytes. What lies there is like what
	// lies in a boot partition.
	LiveName  = "wherry-live"
	LiveLabel = "WHERRY_LIVE"
)

// Fresh makes the table of a disk that holds the boot partition alone.
func Fresh(disk, boot gpt.GUID, blockBytes int, blocks uint64) *gpt.Table {
	t := &gpt.Table{ID: disk, BlockBytes: blockBytes, Blocks: blocks}
	first, _ := t.Span()
	t.Partitions = []gpt.Partition{{
		Type: gpt.TypeESP, ID: boot, Name: BootName, First: first, Last: first + BootBytes/uint64(blockBytes) - 1,
	}}
	return t
}

// Live makes the table of a live medium, whose boot partition is as large as need be.
func Live(disk, boot gpt.GUID, bootBytes int64) *gpt.Table {
	t := &gpt.Table{ID: disk, BlockBytes: 512, Blocks: uint64(bootBytes+2*gpt.Alignment) / 512}
	first, last := t.Span()
	t.Partitions = []gpt.Partition{{Type: gpt.TypeESP, ID: boot, Name: LiveName, First: first, Last: last}}
	return t
}

// Room returns the blocks that the state can have on a disk of Wherry's that
// holds the boot partition and nothing else; last is before first where there
// are none. Other disks are not ok.
//
// The image of a fresh disk ends with a copy of its table, behind the boot
// partition. That place is left out, so that an image written anew over the
// disk's beginning does not reach the state.
func Room(t *gpt.Table) (first, last uint64, ok bool) {
	if len(t.Partitions) != 1 {
		return 0, 0, false
	}
	boot := t.Partitions[0]
	if boot.Type != gpt.TypeESP || boot.Name != BootName {
		return 0, 0, false
	}
	step := uint64(gpt.Alignment / t.BlockBytes)
	first = (boot.Last+step)/step*step + step
	_, last = t.Span()
	return first, last, true
}
