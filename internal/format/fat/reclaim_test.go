// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package fat

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// inMemory is a volume whose bytes a test may change.
type inMemory []byte

func (m inMemory) ReadAt(p []byte, at int64) (int, error) {
	if at < 0 || at > int64(len(m)) || copy(p, m[at:]) < len(p) {
		return 0, io.ErrUnexpectedEOF
	}
	return len(p), nil
}

func (m inMemory) WriteAt(p []byte, at int64) (int, error) { return copy(m[at:], p), nil }

func volumeOf(t *testing.T) (inMemory, *table) {
	t.Helper()
	o := options
	o.Bytes, o.ClusterBytes = 48<<20, 512
	m := inMemory(read(t, format(t, o, sample())))
	tab, err := readTable(m)
	if err != nil {
		t.Fatal(err)
	}
	return m, tab
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// set changes an entry of both copies of the FAT.
func (t *table) set(m inMemory, cluster, next uint32) {
	for n := range int64(fatCopies) {
		little.PutUint32(m[t.start+n*t.bytes+4*int64(cluster):], next)
	}
}

// inOrder has fsck.fat look at a volume.
func inOrder(t *testing.T, m inMemory) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "volume")
	if err := os.WriteFile(path, m, 0o600); err != nil {
		t.Fatal(err)
	}
	judge(t, "fsck.fat", "-n", path)
}

// What a cut left is given back, all else is as it was, and fsck.fat agrees.
func TestReclaim(t *testing.T) {
	m, tab := volumeOf(t)
	want := bytes.Clone(m)
	lost := []uint32{tab.end - 1, tab.end - 2, tab.end - 300, 90_000, 80_000, 80_001}
	for i, c := range lost { // one chain with an end, and one that leads nowhere
		next := uint32(endOfChain)
		if i != 3 && i < len(lost)-1 {
			next = lost[i+1]
		}
		tab.set(m, c, next)
	}
	got, err := Reclaim(m)
	if err != nil || got != int64(len(lost))*512 {
		t.Fatalf("%d bytes, %v", got, err)
	}
	at := infoSector*sectorBytes + 488
	little.PutUint32(want[at:], countUnknown)
	if !bytes.Equal(m, want) {
		t.Error("something else was changed")
	}
	inOrder(t, m)
	if got, err := Reclaim(m); got != 0 || err != nil || !bytes.Equal(m, want) {
		t.Errorf("a second time: %d bytes, %v", got, err)
	}
}

// A volume that was in use when the power went is in order afterwards, for fsck.fat too, also when nothing was lost.
func TestReclaimInUse(t *testing.T) {
	m, _ := volumeOf(t)
	want := bytes.Clone(m)
	count := infoSector*sectorBytes + 488
	m[stateByte] |= stateInUse
	little.PutUint32(m[count:], 7) // so many are free, it says
	if got, err := Reclaim(m); got != 0 || err != nil {
		t.Fatalf("%d bytes, %v", got, err)
	}
	little.PutUint32(want[count:], countUnknown)
	if !bytes.Equal(m, want) {
		t.Error("something else was changed")
	}
	inOrder(t, m)
}

// A cut between the two copies of the table leaves them different: the first one is what all go by.
func TestReclaimCopies(t *testing.T) {
	m, tab := volumeOf(t)
	want := bytes.Clone(m)
	for _, c := range []int64{20_000, 20_001, int64(tab.end) - 1} { // of a file, and a free one
		little.PutUint32(m[tab.start+tab.bytes+4*c:], 5)
	}
	if got, err := Reclaim(m); got != 0 || err != nil {
		t.Fatalf("%d bytes, %v", got, err)
	}
	if !bytes.Equal(m, want) {
		t.Error("the copies differ, or something else was changed")
	}
	inOrder(t, m)
}

// A volume that somebody else made and used is as good.
func TestReclaimOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "volume")
	judge(t, "mkfs.fat", "-C", "-F", "32", "-s", "1", path, "40960")
	file := filepath.Join(t.TempDir(), "a rather long name")
	if err := os.WriteFile(file, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{{"mmd", "-i", path, "::/EFI", "::/EFI/Linux"}, {"mcopy", "-i", path, file, "::/EFI/Linux/one"}, {"mcopy", "-i", path, file, "::/EFI/Linux"}, {"mdel", "-i", path, "::/EFI/Linux/one"}} {
		judge(t, c[0], c[1:]...)
	}
	m := inMemory(read(t, path))
	want := bytes.Clone(m)
	if got, err := Reclaim(m); got != 0 || err != nil || !bytes.Equal(m, want) {
		t.Errorf("%d bytes, %v", got, err)
	}
}

// Where a file's chain is not whole nothing is touched, lost clusters neither.
func TestReclaimDamaged(t *testing.T) {
	for name, next := range map[string]func(*table) uint32{
		"a chain that ends in nothing": func(*table) uint32 { return 0 },
		"a chain beyond the end":       func(t *table) uint32 { return t.end },
		"a chain into another":         func(*table) uint32 { return rootCluster },
		"a bad cluster":                func(*table) uint32 { return badCluster },
	} {
		m, tab := volumeOf(t)
		tab.set(m, tab.end-1, endOfChain)
		tab.set(m, 20_000, next(tab)) // amid the large file
		want := bytes.Clone(m)
		if got, err := Reclaim(m); got != 0 || !errors.Is(err, ErrDamaged) || !bytes.Equal(m, want) {
			t.Errorf("%s: %d bytes, %v", name, got, err)
		}
	}
}

// Whatever lies there, it ends, and without a panic.
func TestReclaimGarbage(t *testing.T) {
	whole, tab := volumeOf(t)
	random := rand.New(rand.NewPCG(1, 2))
	m, written := bytes.Clone(whole), tab.data+64<<10
	for range 200 {
		copy(m[:written], whole)
		for range 1 + random.IntN(8) {
			at := []int64{random.Int64N(96), tab.start + random.Int64N(tab.bytes), tab.data + random.Int64N(64<<10)}[random.IntN(3)]
			m[at] = byte(random.Uint32())
		}
		Reclaim(inMemory(m)) // an error or none
	}
	if _, err := Reclaim(inMemory(make([]byte, 100))); err == nil {
		t.Error("a volume of 100 bytes")
	}
}
