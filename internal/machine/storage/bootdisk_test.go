// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"bytes"
	"io"
	"testing"

	"wherry.example/wherry/internal/disklayout"
	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/linux/block"
)

// ReadAt sees the cache, as the machine that writes does.
func (d *cutDisk) ReadAt(p []byte, offset int64) (int, error) {
	n := copy(p, d.durable[offset:])
	for at, data := range d.cached {
		if at+int64(len(data)) > offset && at < offset+int64(n) {
			copy(p[max(at-offset, 0):n], data[max(offset-at, 0):])
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// bootBytes is a boot partition smaller than the real one.
const bootBytes = 16 << 20

// newBootDisk is a disk with a boot partition and old rubbish behind it, whose
// table was made for a smaller disk.
func newBootDisk(t *testing.T, after int, seed uint64) *cutDisk {
	t.Helper()
	d := newCutDisk(after, seed)
	table := &gpt.Table{ID: gpt.GUID{1}, BlockBytes: testBlockBytes, Blocks: (bootBytes + 2<<20) / testBlockBytes}
	first, last := table.Span()
	table.Partitions = []gpt.Partition{{Type: gpt.TypeESP, ID: gpt.GUID{2}, First: first, Last: last, Name: disklayout.BootName}}
	writes, err := table.Writes()
	if err != nil {
		t.Fatal(err)
	}
	for i := range d.durable {
		d.durable[i] = 0xa5
	}
	for _, w := range writes {
		copy(d.durable[w.Offset:], w.Data)
	}
	return d
}

// part is a partition of a cutDisk.
type part struct {
	*cutDisk
	start int64
}

func (p part) WriteAt(b []byte, at int64) (int, error) { return p.cutDisk.WriteAt(b, p.start+at) }
func (p part) ZeroOut(at, n int64) error               { return p.cutDisk.ZeroOut(p.start+at, n) }

// bootPlaces is what a boot would see: firmware mends a table from its copy.
func (d *cutDisk) bootPlaces(t *testing.T) ([]place, *gpt.Table) {
	t.Helper()
	device := bytes.NewReader(d.durable)
	whole := place{Disk: "vda", Name: "vda", Bytes: testBytes, Split: true}
	inspect(device, &whole)
	table, err := gpt.Read(device, testBlockBytes, testBytes/testBlockBytes)
	if err != nil {
		t.Fatal(err)
	}
	whole.Boot, whole.Room = room(table)
	places := []place{whole}
	if len(table.Partitions) == 2 {
		e := table.Partitions[1]
		p := block.Partition{Name: "vda2", Number: 2, Start: int64(e.First) * testBlockBytes, Bytes: int64(e.Last-e.First+1) * testBlockBytes}
		section := bytes.NewReader(d.durable[p.Start : p.Start+p.Bytes])
		state := place{Disk: "vda", Name: "vda2", Partition: 2, Bytes: p.Bytes, Meant: meant(table, p, testBlockBytes)}
		inspect(section, &state)
		state.Claimed = state.Meant && claimedPartition(section, p.Bytes)
		places = append(places, state)
	}
	return places, table
}

// act does what was decided, as formatPlace does.
func (d *cutDisk) act(t *testing.T) (plan, error) {
	t.Helper()
	for {
		places, table := d.bootPlaces(t)
		p := decide(places)
		if p.Action != format {
			return p, nil
		}
		if p.Place.Boot {
			if err := addState(d, testBlockBytes, testBytes); err != nil {
				return p, err
			}
			continue
		}
		start := int64(table.Partitions[1].First) * testBlockBytes
		if err := formatPartition(part{d, start}, p.Place.Bytes); err != nil {
			return p, err
		}
	}
}

// Wherever the power is cut while the state partition is added and formatted,
// the next boot goes on, and the boot partition is as it was.
func TestPowerCutWhileAddingThePartition(t *testing.T) {
	finished := false
	for cut := 0; !finished; cut++ {
		d := newBootDisk(t, cut, uint64(cut))
		before := bytes.Clone(d.durable[1<<20 : 1<<20+bootBytes])
		_, err := d.act(t)
		finished = err == nil
		d.left, d.cached = -1, map[int64][]byte{}
		p, err := d.act(t)
		if err != nil || p.Action != useState || p.Place.Name != "vda2" {
			t.Fatalf("cut at operation %d: %v: %v, %s", cut, err, p.Action, p.Why)
		}
		if !bytes.Equal(before, d.durable[1<<20:1<<20+bootBytes]) {
			t.Fatalf("cut at operation %d: the boot partition was changed", cut)
		}
		if cut > 1000 {
			t.Fatal("it does not end")
		}
	}
}

// A boot partition that is written anew, with its table, finds the state again;
// damaged state there is not overwritten.
func TestStateBehindANewBootPartition(t *testing.T) {
	d := newBootDisk(t, -1, 0)
	if _, err := d.act(t); err != nil {
		t.Fatal(err)
	}
	_, table := d.bootPlaces(t)
	start := int64(table.Partitions[1].First) * testBlockBytes
	state := bytes.Clone(d.durable[start : testBytes-1<<20])
	again := func() {
		copy(d.durable, newBootDisk(t, -1, 0).durable[:bootBytes+2<<20])
	}
	again()
	p, err := d.act(t)
	if err != nil || p.Action != useState {
		t.Fatalf("%v: %v, %s", err, p.Action, p.Why)
	}
	if _, now := d.bootPlaces(t); now.ID == table.ID || now.ID == (gpt.GUID{1}) || len(now.Partitions) != 2 {
		t.Errorf("the table is %+v", now)
	}
	if !bytes.Equal(state, d.durable[start:testBytes-1<<20]) {
		t.Error("the state was changed")
	}
	again()
	d.durable[start+200] ^= 1 // in the superblock
	damaged := bytes.Clone(d.durable)
	if p, err := d.act(t); err == nil || !bytes.Equal(damaged, d.durable) {
		t.Errorf("damaged state: %v, %v", p.Action, err)
	}
}
