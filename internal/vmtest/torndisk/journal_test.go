// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package torndisk

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// read is everything that a disk has.
func read(t *testing.T, d *Disk) []byte {
	t.Helper()
	out := make([]byte, d.Size())
	if _, err := d.ReadAt(out, 0); err != nil {
		t.Fatal(err)
	}
	return out
}

// pieceOf cuts a journal, and returns what the disk has then.
func pieceOf(t *testing.T, j *Journal, disk, events int, seed uint64) (*Disk, []byte, Torn) {
	t.Helper()
	d, torn, err := j.Cut(disk, events, rand.New(rand.NewPCG(seed, 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d, read(t, d), torn
}

func work(t *testing.T, d *Disk, commands ...string) {
	t.Helper()
	if out, err := qemuIO(d, commands...).CombinedOutput(); err != nil || bytes.Contains(out, []byte("ailed")) {
		t.Fatalf("%v\n%s", err, out)
	}
}

// At each place of a journal a disk has what was flushed until then, of the rest what
// a power cut may leave, and nothing of what came later.
func TestJournal(t *testing.T) {
	d, _ := serve(t)
	flash, _ := serve(t)
	flash.flash = true
	work(t, d, "write -P 0x39 32k 4k") // before
	j, err := Record(t.TempDir(), d, flash)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	work(t, d, "write -P 0x31 0 4k", "flush", "write -P 0x32 0 4k", "write -f -P 0x33 4k 2k", "write -P 0x34 8k 512")
	work(t, flash, "write -P 0x35 0 512", "write -P 0x36 0 512")
	events, err := j.End()
	if err != nil {
		t.Fatal(err)
	}
	work(t, d, "write -P 0x37 0 64k") // afterwards
	first := 0
	for events[first].Disk != 1 {
		first++
	}
	// What each place may have, by the number of events: at 0, at 4k, at 8k.
	for n, want := range map[int][3]string{0: {"0", "0", "0"}, 1: {"01", "0", "0"}, 2: {"1", "0", "0"}, 3: {"12", "0", "0"}, 4: {"12", "3", "0"}, 5: {"12", "3", "04"}, first: {"2", "3", "4"}} {
		seen := map[byte]bool{}
		for seed := range uint64(30) {
			_, got, _ := pieceOf(t, j, 0, n, seed)
			for i, at := range []int{0, 4 << 10, 8 << 10} {
				if !bytes.Contains([]byte(want[i]), got[at:at+1]) {
					t.Fatalf("after %d events, seed %d: %q at %d, want one of %q", n, seed, got[at], at, want[i])
				}
			}
			if got[32<<10] != '9' {
				t.Fatalf("what was there before is gone: %q", got[32<<10])
			}
			seen[got[0]] = true
		}
		if len(seen) != len(want[0]) {
			t.Errorf("after %d events only %v came up, of %q", n, seen, want[0])
		}
	}
	for n, want := range map[int]byte{first: '0', first + 1: '5', first + 2: '6'} {
		if _, got, torn := pieceOf(t, j, 1, n, 1); got[0] != want || torn.Unsafe != 0 {
			t.Errorf("the flash has %q after %d events, %+v", got[0], n, torn)
		}
	}
}

// What is cut works as a disk, and is torn again; the journal stays as it was.
func TestCutAgain(t *testing.T) {
	d, _ := serve(t)
	j, err := Record(t.TempDir(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	work(t, d, "write -P 0x31 0 4k", "flush")
	if _, err := j.End(); err != nil {
		t.Fatal(err)
	}
	c, before, _ := pieceOf(t, j, 0, j.Len(), 1)
	work(t, c, "read -P 0x31 0 4k", "write -P 0x32 2k 4k", "read -P 0x31 0 2k", "read -P 0x32 2k 4k")
	c.StopAtWrite(2)
	cut(t, c, "write -P 0x33 64k 4k", "write -P 0x34 128k 4k")
	if _, err := c.Tear(rand.New(rand.NewPCG(1, 1))); err != nil {
		t.Fatal(err)
	}
	if got := read(t, c); got[0] != '1' || got[2<<10] != '2' || got[6<<10] != '0' {
		t.Errorf("%q %q %q", got[0], got[2<<10], got[6<<10])
	}
	if _, after, _ := pieceOf(t, j, 0, j.Len(), 1); !bytes.Equal(before, after) {
		t.Error("what was done to a cut disk is in the journal")
	}
}

// A journal can begin before the disk is used.
func TestRecordFirstUse(t *testing.T) {
	d, _ := serve(t)
	j, err := Record(t.TempDir(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	work(t, d, "write -P 0x31 0 4k")
	if events, err := j.End(); err != nil || len(events) < 1 || events[0].Flush {
		t.Fatalf("%v, %v", events, err)
	}
	if _, got, _ := pieceOf(t, j, 0, 0, 1); got[0] != '0' {
		t.Errorf("%q", got[0])
	}
}

// A file need not end with a page, and holes and changes are told apart.
func TestOverlay(t *testing.T) {
	d, path := serve(t)
	_ = d
	o, err := openOverlay(path)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if _, err := o.WriteAt(bytes.Repeat([]byte{'x'}, 10_000), 5_000); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 20_000)
	if _, err := o.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte{'0'}, 20_000)
	copy(want[5_000:], bytes.Repeat([]byte{'x'}, 10_000))
	if !bytes.Equal(got, want) {
		t.Error("it reads something else than was written")
	}
}
