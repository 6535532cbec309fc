// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package gpt

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var linuxData = MustGUID("0FC63DAF-8483-4772-8E79-3D69D8477DE4")

func newTable(blockBytes int, size uint64) *Table {
	t := &Table{ID: RandomGUID([16]byte{1, 2, 3}), BlockBytes: blockBytes, Blocks: size / uint64(blockBytes)}
	first, last := t.Span()
	t.Partitions = []Partition{
		{Type: linuxData, ID: RandomGUID([16]byte{4}), First: first, Last: first + 2047, Name: "first"},
		{},
		{Type: linuxData, ID: RandomGUID([16]byte{5}), First: first + 2048, Last: last, Name: "wherry-state", Attributes: 1 << 60},
	}
	return t
}

func writeDisk(t *testing.T, table *Table) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(int64(table.Blocks) * int64(table.BlockBytes)); err != nil {
		t.Fatal(err)
	}
	writes, err := table.Writes()
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range writes {
		if _, err := f.WriteAt(w.Data, w.Offset); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestSgdiskAccepts(t *testing.T) {
	for _, size := range []uint64{64 << 20, 8_000_000_000 / 512 * 512, 3 << 40} {
		f := writeDisk(t, newTable(512, size))
		out, err := exec.Command("sgdisk", "-v", "-p", f.Name()).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "No problems found") || !strings.Contains(string(out), "wherry-state") {
			t.Errorf("%d bytes: %v\n%s", size, err, out)
		}
	}
}

func TestReadReturnsWhatWasWritten(t *testing.T) {
	for _, blockBytes := range []int{512, 4096} {
		want := newTable(blockBytes, 1<<30)
		f := writeDisk(t, want)
		got, err := Read(f, blockBytes, want.Blocks)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("block size %d:\n%s", blockBytes, diff)
		}
	}
}

// A copy that was torn must not hide the other one.
func TestReadFallsBackToTheBackup(t *testing.T) {
	for name, offset := range map[string]int64{"header": 512 + 60, "entries": 1024 + 40} {
		want := newTable(512, 1<<30)
		f := writeDisk(t, want)
		damage(t, f, offset)
		got, err := Read(f, 512, want.Blocks)
		if err != nil || !cmp.Equal(want, got) {
			t.Errorf("primary %s damaged: %v", name, err)
		}
		damage(t, f, int64(want.Blocks-1)*512+60)
		if _, err := Read(f, 512, want.Blocks); !errors.Is(err, ErrNone) {
			t.Errorf("both copies damaged: %v", err)
		}
	}
}

func damage(t *testing.T, f *os.File, offset int64) {
	t.Helper()
	if _, err := f.WriteAt([]byte{0xa5}, offset); err != nil {
		t.Fatal(err)
	}
}

func TestWritesRefuses(t *testing.T) {
	for name, change := range map[string]func(*Table){
		"overlap":       func(t *Table) { t.Partitions[2].First-- },
		"out of bounds": func(t *Table) { t.Partitions[2].Last = t.Blocks - 1 },
		"backwards":     func(t *Table) { t.Partitions[0].Last = t.Partitions[0].First - 1 },
		"long name":     func(t *Table) { t.Partitions[0].Name = strings.Repeat("x", 37) },
		"tiny disk":     func(t *Table) { t.Blocks = 100 },
		"block size":    func(t *Table) { t.BlockBytes = 1024 },
		"too many":      func(t *Table) { t.Partitions = make([]Partition, 129) },
	} {
		table := newTable(512, 1<<30)
		change(table)
		if _, err := table.Writes(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestGUIDText(t *testing.T) {
	const text = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
	g := MustGUID(text)
	if g.String() != text || g[0] != 0xaf || g[15] != 0xe4 {
		t.Errorf("%s: % x", g, g[:])
	}
	for _, bad := range []string{"", "x", strings.ReplaceAll(text, "-", ""), text + "0"} {
		if _, err := ParseGUID(bad); err == nil {
			t.Errorf("%q is a GUID", bad)
		}
	}
}

func FuzzRead(f *testing.F) {
	table := newTable(512, 4<<20)
	writes, err := table.Writes()
	if err != nil {
		f.Fatal(err)
	}
	disk := make([]byte, 4<<20)
	for _, w := range writes {
		copy(disk[w.Offset:], w.Data)
	}
	f.Add(disk[:2048])
	f.Fuzz(func(t *testing.T, head []byte) {
		image := bytes.Clone(disk)
		copy(image[512:len(image)-512], head)
		got, err := Read(bytes.NewReader(image), 512, table.Blocks)
		if err == nil {
			for _, p := range got.Partitions {
				if p.Last >= table.Blocks {
					t.Fatal("a partition outside of the disk")
				}
			}
		}
	})
}
