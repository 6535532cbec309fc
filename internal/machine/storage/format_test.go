// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/linux/block"
)

const (
	testBytes      = 128 << 20
	testBlockBytes = 512
)

// cutDisk is a disk in memory with a write cache that loses its power: writes
// since the last Sync are then on the disk or not, sector by sector.
type cutDisk struct {
	durable []byte
	cached  map[int64][]byte // sectors
	left    int              // operations until the power is cut; negative: never
	dice    *rand.Rand
}

func newCutDisk(after int, seed uint64) *cutDisk {
	return &cutDisk{durable: make([]byte, testBytes), cached: map[int64][]byte{}, left: after, dice: rand.New(rand.NewPCG(seed, 0))}
}

type powerCut struct{}

func (powerCut) Error() string { return "the power is cut" }

func (d *cutDisk) operate() error {
	if d.left == 0 {
		for at, data := range d.cached {
			if d.dice.IntN(2) == 0 {
				copy(d.durable[at:], data)
			}
		}
		d.cached = nil
		d.left = -1 << 30 // everything fails from now on
		return powerCut{}
	}
	if d.left < -1<<20 {
		return powerCut{}
	}
	d.left--
	return nil
}

func (d *cutDisk) WriteAt(p []byte, offset int64) (int, error) {
	// What a write brings may be partly on the disk when the power goes.
	for at := 0; at < len(p); at += testBlockBytes {
		if d.cached != nil {
			d.cached[offset+int64(at)] = bytes.Clone(p[at:min(at+testBlockBytes, len(p))])
		}
	}
	if err := d.operate(); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (d *cutDisk) ZeroOut(offset, n int64) error {
	if err := d.operate(); err != nil {
		return err
	}
	clear(d.durable[offset : offset+n])
	for at := range d.cached {
		if at >= offset && at < offset+n {
			delete(d.cached, at)
		}
	}
	return nil
}

func (d *cutDisk) Sync() error {
	if err := d.operate(); err != nil {
		return err
	}
	for at, data := range d.cached {
		copy(d.durable[at:], data)
	}
	clear(d.cached)
	return nil
}

// observed is what a boot would see, with the partition as the kernel shows it.
func (d *cutDisk) observed() []place {
	device := bytes.NewReader(d.durable)
	whole := place{Disk: "vda", Name: "vda", Bytes: testBytes}
	inspect(device, &whole)
	whole.Claimed = claimedDisk(device, testBlockBytes, testBytes)
	table, err := gpt.Read(device, testBlockBytes, testBytes/testBlockBytes)
	if whole.Claimed || err != nil {
		return []place{whole}
	}
	whole.Split = true
	entry := table.Partitions[0]
	part := block.Partition{Name: "vda1", Number: 1, Start: int64(entry.First) * testBlockBytes, Bytes: int64(entry.Last-entry.First+1) * testBlockBytes}
	p := place{Disk: "vda", Name: "vda1", Partition: 1, Bytes: part.Bytes, Meant: meant(table, part, testBlockBytes)}
	inspect(bytes.NewReader(d.durable[part.Start:part.Start+part.Bytes]), &p)
	return []place{whole, p}
}

// Wherever the power is cut while a disk is formatted, the next boot formats
// it again or finds it finished. It never takes it for somebody else's.
func TestPowerCutWhileFormattingADisk(t *testing.T) {
	finished := false
	for cut := 0; !finished; cut++ {
		for seed := range uint64(3) {
			d := newCutDisk(cut, seed)
			err := formatDisk(d, testBlockBytes, testBytes)
			finished = err == nil
			p := decide(d.observed())
			if p.Action == useMemory || finished && p.Action != useState {
				t.Fatalf("cut at operation %d, seed %d: %v: %s", cut, seed, p.Action, p.Why)
			}
			if p.Action == useState {
				judge(t, d, p.Place)
				continue
			}
			d.left, d.cached = -1, map[int64][]byte{}
			if err := formatDisk(d, testBlockBytes, testBytes); err != nil {
				t.Fatal(err)
			}
			if p := decide(d.observed()); p.Action != useState {
				t.Fatalf("cut at operation %d, seed %d: formatted again: %v: %s", cut, seed, p.Action, p.Why)
			}
		}
		if cut > 1000 {
			t.Fatal("formatting does not end")
		}
	}
}

// The same for a partition that is meant for the state.
func TestPowerCutWhileFormattingAPartition(t *testing.T) {
	finished := false
	for cut := 0; !finished; cut++ {
		d := newCutDisk(cut, uint64(cut))
		finished = formatPartition(d, testBytes) == nil
		p := place{Disk: "vda", Name: "vda1", Partition: 1, Bytes: testBytes, Meant: true}
		device := bytes.NewReader(d.durable)
		inspect(device, &p)
		p.Claimed = claimedPartition(device, testBytes)
		if got := decide([]place{p}); got.Action == useMemory || finished && got.Action != useState {
			t.Fatalf("cut at operation %d: %v: %s", cut, got.Action, got.Why)
		}
		if cut > 1000 {
			t.Fatal("formatting does not end")
		}
	}
}

// sgdisk and xfs_repair judge a finished disk.
func judge(t *testing.T, d *cutDisk, p place) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, d.durable, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sgdisk", "-v", path).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("No problems found")) {
		t.Errorf("sgdisk: %v\n%s", err, out)
	}
	table, err := gpt.Read(bytes.NewReader(d.durable), testBlockBytes, testBytes/testBlockBytes)
	if err != nil {
		t.Fatal(err)
	}
	start := int64(table.Partitions[0].First) * testBlockBytes
	if err := os.WriteFile(path, d.durable[start:start+p.Bytes], 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("xfs_repair", "-n", "-f", "-o", "force_geometry", path).CombinedOutput(); err != nil {
		t.Errorf("xfs_repair: %v\n%s", err, out)
	}
}

// A claim is believed only where it is exactly that of this very disk.
func TestClaimIsExact(t *testing.T) {
	d := newCutDisk(-1, 0)
	table, err := newTable(testBlockBytes, testBytes)
	if err != nil {
		t.Fatal(err)
	}
	claim := diskClaim(table)
	copy(d.durable, claim)
	if !claimedDisk(bytes.NewReader(d.durable), testBlockBytes, testBytes) {
		t.Fatal("a claim is not recognised")
	}
	for at := range claim {
		d.durable[at] ^= 1
		if claimedDisk(bytes.NewReader(d.durable), testBlockBytes, testBytes) {
			t.Fatalf("recognised with byte %d changed", at)
		}
		d.durable[at] ^= 1
	}
	for _, size := range []int64{0, 100, testBytes / 2} {
		if claimedDisk(bytes.NewReader(d.durable), testBlockBytes, size) {
			t.Errorf("recognised on a disk of %d bytes", size)
		}
	}
}
