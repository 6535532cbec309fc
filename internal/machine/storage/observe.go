// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"wherry.example/wherry/internal/disklayout"
	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/format/xfs"
	"wherry.example/wherry/internal/linux/block"
)

// observer looks at the disks. What it saw of a disk is remembered while the
// disk has the same size and partitions (the kernel shows a new disk a moment
// before its partitions), so that looking again for a new one is cheap.
type observer struct {
	lister block.Lister
	seen   map[string]sight
}

type sight struct {
	bytes      int64
	partitions []block.Partition
	places     []place
}

// look returns all places, disks in order, each before its partitions.
func (o *observer) look() ([]place, error) {
	disks, err := o.lister.List()
	if err != nil {
		return nil, err
	}
	if o.seen == nil {
		o.seen = map[string]sight{}
	}
	var all []place
	for _, d := range disks {
		s, ok := o.seen[d.Name]
		if !ok || s.bytes != d.Bytes || !slices.Equal(s.partitions, d.Partitions) {
			s = sight{d.Bytes, d.Partitions, observeDisk(d)}
			o.seen[d.Name] = s
		}
		all = append(all, s.places...)
	}
	return all, nil
}

// forget makes the next look read the disk again.
func (o *observer) forget(disk string) { delete(o.seen, disk) }

func observeDisk(d block.Disk) []place {
	whole := place{
		Disk: d.Name, Name: d.Name, Path: d.Path, Bytes: d.Bytes,
		ReadOnly: d.ReadOnly, Removable: d.Removable, Split: len(d.Partitions) > 0,
	}
	device, err := block.OpenReading(d.Path)
	if err != nil {
		whole.Problem = err.Error()
		return []place{whole}
	}
	defer device.Close()
	inspect(device, &whole)
	whole.Claimed = claimedDisk(device, d.LogicalBytes, d.Bytes)
	if whole.Claimed {
		return []place{whole} // what its partitions hold is unfinished
	}
	table, err := gpt.Read(device, d.LogicalBytes, uint64(d.Bytes)/uint64(d.LogicalBytes))
	if err != nil && !errors.Is(err, gpt.ErrNone) {
		whole.Problem = err.Error()
	}
	if table != nil && len(d.Partitions) == 1 {
		whole.Boot, whole.Room = room(table)
	}
	places := []place{whole}
	for _, part := range d.Partitions {
		p := observePartition(whole, part, meant(table, part, d.LogicalBytes))
		e := entry(table, part, d.LogicalBytes)
		p.ID, p.Label = e.ID, e.Name
		places = append(places, p)
	}
	return places
}

// room tells a disk of Wherry's that has no state yet, and what is free on it.
func room(table *gpt.Table) (boot bool, bytes int64) {
	first, last, ok := disklayout.Room(table)
	if !ok {
		return false, 0
	}
	return true, max(0, int64(last+1)-int64(first)) * int64(table.BlockBytes)
}

// entry is what the partition table says of a partition; nothing where it and
// the kernel do not agree.
func entry(table *gpt.Table, p block.Partition, blockBytes int) gpt.Partition {
	if table == nil || p.Number < 1 || p.Number > len(table.Partitions) {
		return gpt.Partition{}
	}
	e := table.Partitions[p.Number-1]
	if int64(e.First)*int64(blockBytes) != p.Start {
		return gpt.Partition{}
	}
	return e
}

// meant tells whether the partition table gives a partition to the state.
func meant(table *gpt.Table, p block.Partition, blockBytes int) bool {
	e := entry(table, p, blockBytes)
	return e.Type == TypeGUID || e.Name == Label
}

func observePartition(disk place, part block.Partition, meant bool) place {
	p := place{
		Disk: disk.Name, Name: part.Name, Path: part.Path, Partition: part.Number, Bytes: part.Bytes,
		ReadOnly: disk.ReadOnly, Removable: disk.Removable, Meant: meant,
	}
	device, err := block.OpenReading(part.Path)
	if err != nil {
		p.Problem = err.Error()
		return p
	}
	defer device.Close()
	inspect(device, &p)
	p.Claimed = meant && claimedPartition(device, part.Bytes)
	return p
}

// inspect fills in what is on a place.
func inspect(device io.ReaderAt, p *place) {
	content, err := block.Probe(device, p.Bytes)
	if err != nil {
		p.Problem = err.Error()
		return
	}
	p.Content = content.Name
	if super, ok := xfs.ParseSuper(content.Head); ok {
		p.Super = super
	}
}

// A claim marks a place that is being formatted, so that a formatting which a
// power cut ended can be done again although the place is not empty any more.
// It is written first and taken back last, each time with one write of one
// block, which disks do whole or not at all.
//
// The claim of a whole disk is its protective MBR with claimText where boot
// code would be. The claim of a partition is its last block: the file system
// leaves that one free.
var claimText = []byte("Wherry is formatting this. It holds nothing yet.\x00")

// reservedBytes at the end of a place are for its claim.
const reservedBytes = xfs.BlockBytes

func diskClaim(t *gpt.Table) []byte {
	mbr := t.ProtectiveMBR()
	copy(mbr, claimText)
	return mbr
}

func claimedDisk(device io.ReaderAt, blockBytes int, size int64) bool {
	if blockBytes != 512 && blockBytes != 4096 {
		return false
	}
	want := diskClaim(&gpt.Table{BlockBytes: blockBytes, Blocks: uint64(size) / uint64(blockBytes)})
	return readsAs(device, 0, want)
}

func partitionClaim() []byte {
	b := make([]byte, reservedBytes)
	copy(b, claimText)
	return b
}

func claimOffset(size int64) int64 { return size/reservedBytes*reservedBytes - reservedBytes }

func claimedPartition(device io.ReaderAt, size int64) bool {
	return size >= minBytes && readsAs(device, claimOffset(size), partitionClaim())
}

func readsAs(device io.ReaderAt, offset int64, want []byte) bool {
	got := make([]byte, len(want))
	if _, err := device.ReadAt(got, offset); err != nil {
		return false
	}
	return bytes.Equal(got, want)
}

func (p place) String() string { return fmt.Sprintf("%s (%s)", p.Name, p.Content) }
