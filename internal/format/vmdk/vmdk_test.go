// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// disk is a sparse disk with data at some offsets; nothing is said to be blank
// unless sure.
type disk struct {
	*os.File
	blank func(offset, n int64) bool
}

func (d disk) Blank(offset, n int64) bool { return d.blank != nil && d.blank(offset, n) }

func newDisk(t *testing.T, size int64, data map[int64][]byte) disk {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for at, b := range data {
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	return disk{File: f}
}

func judge(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := exec.Command("qemu-img", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img %q: %v\n%s", args, err, out)
	}
	return out
}

func noise(n int) []byte {
	b := make([]byte, n)
	source := rand.NewChaCha8([32]byte{})
	_, _ = source.Read(b)
	return b
}

// qemu-img takes the image for what it is, finds nothing wrong, and the disk's
// bytes in it.
func TestQemuImgAgrees(t *testing.T) {
	for name, c := range map[string]struct {
		size int64
		data map[int64][]byte
	}{
		"empty":               {1 << 30, nil},
		"one byte at the end": {64 << 20, map[int64][]byte{64<<20 - 1: {1}}},
		"one grain":           {grainBytes, map[int64][]byte{0: noise(grainBytes)}},
		"a part of a table":   {33 << 20, map[int64][]byte{32 << 20: []byte("last table"), 0: noise(1 << 20)}},
		"a large disk":        {2 << 30, map[int64][]byte{1 << 20: noise(5 << 20), 2<<30 - 512: []byte("end"), 1 << 30: bytes.Repeat([]byte("packs"), 100_000)}},
	} {
		d := newDisk(t, c.size, c.data)
		if c.size == 2<<30 {
			d.blank = func(offset, n int64) bool { return offset > 16<<20 && offset+n < 1<<30 }
		}
		image := filepath.Join(t.TempDir(), "disk.vmdk")
		out, err := os.Create(image)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(Write(out, d, Options{Bytes: c.size, Name: "disk.vmdk", ID: 0x12345678}), out.Close()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		judge(t, "check", "-f", "vmdk", image)
		judge(t, "compare", "-f", "raw", "-F", "vmdk", d.Name(), image)
		var info struct {
			Size     int64 `json:"virtual-size"`
			Specific struct {
				Data struct {
					CID  uint32 `json:"cid"`
					Type string `json:"create-type"`
				} `json:"data"`
			} `json:"format-specific"`
		}
		if err := json.Unmarshal(judge(t, "info", "--output=json", "-f", "vmdk", image), &info); err != nil {
			t.Fatal(err)
		}
		if info.Size != c.size || info.Specific.Data.Type != "streamOptimized" || info.Specific.Data.CID != 0x12345678 {
			t.Errorf("%s: qemu-img info: %+v", name, info)
		}
	}
}

// Whoever reads the file as a stream meets a marker wherever one must be, in
// order: grains and their table, again and again; directory; footer; end.
func TestMarkers(t *testing.T) {
	d := newDisk(t, 128<<20, map[int64][]byte{0: noise(100_000), 64 << 20: noise(1)})
	var b bytes.Buffer
	if err := Write(&b, d, Options{Bytes: 128 << 20, Name: "x"}); err != nil {
		t.Fatal(err)
	}
	at, seen := overheadSectors*sectorBytes, ""
	for data := b.Bytes(); at < len(data); {
		value, size, kind := little.Uint64(data[at:]), little.Uint32(data[at+8:]), little.Uint32(data[at+12:])
		if size != 0 {
			seen += "g"
			at += int(sectors(12+int(size))) * sectorBytes
			continue
		}
		seen += string("etdf"[kind])
		at += sectorBytes * int(1+value)
	}
	if want := "ggtgtdfe"; seen != want || at != b.Len() {
		t.Errorf("the markers are %s, want %s; %d of %d bytes", seen, want, at, b.Len())
	}
}

func TestSameDiskSameBytes(t *testing.T) {
	d := newDisk(t, 64<<20, map[int64][]byte{1 << 20: bytes.Repeat([]byte("the same "), 1<<16)})
	var images [2]bytes.Buffer
	for i := range images {
		if err := Write(&images[i], d, Options{Bytes: 64 << 20, Name: "x", ID: 7}); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(images[0].Bytes(), images[1].Bytes()) {
		t.Error("two images of one disk differ")
	}
}

func TestRefuses(t *testing.T) {
	d := newDisk(t, 1<<20, nil)
	for name, o := range map[string]Options{
		"no bytes":     {Name: "x"},
		"odd":          {Bytes: 1<<20 + 512, Name: "x"},
		"too large":    {Bytes: 1<<40 + 1<<20, Name: "x"},
		"no identity":  {Bytes: 1 << 20, Name: "x", ID: 1<<32 - 1},
		"a long name":  {Bytes: 1 << 20, Name: string(make([]byte, 20_000))},
		"a short disk": {Bytes: 2 << 20, Name: "x"},
	} {
		if err := Write(io.Discard, d, o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
