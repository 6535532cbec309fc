// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package xfs

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var testUUID = [16]byte{0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x47, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0x01}

// xfsprogs judge what Build makes, on devices of all sizes. Growing takes a
// kernel: the VM tests of storage do that.
func TestXfsprogsAccept(t *testing.T) {
	for name, size := range map[string]int64{
		"smallest": MinBytes, "100 MB": 100e6, "1 GB": 1e9, "8 GB": 8e9, "100 GB": 100e9, "16 TB": 16e12,
	} {
		t.Run(name, func(t *testing.T) {
			path := writeImage(t, size)
			run(t, "xfs_repair", "-n", "-f", "-o", "force_geometry", path)
			facts := run(t, "xfs_db", "-r", "-f", "-c", "sb 0", "-c", "print uuid fname agblocks agblklog", path)
			for _, want := range []string{"11223344-5566-4788-99aa-bbccddeeff01", `"wherry-state\000"`} {
				if !strings.Contains(strings.ReplaceAll(facts, `state"`, `state\000"`), want) {
					t.Errorf("%s is missing in %s", want, facts)
				}
			}
		})
	}
}

// No object may keep the template's UUID.
func TestUUIDIsReplacedEverywhere(t *testing.T) {
	image, err := Build(testUUID, "x", MinBytes)
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := unpack(template)
	if err != nil {
		t.Fatal(err)
	}
	old := blocks[0].Data[sbUUID : sbUUID+16]
	count := bytes.Count(image.Super[:], testUUID[:])
	for _, b := range append(image.Blocks, Block{Data: image.Super[:]}) {
		if bytes.Contains(b.Data, old) {
			t.Errorf("the template's UUID is in the block at %d", b.Offset)
		}
		count += bytes.Count(b.Data, testUUID[:])
	}
	if count < 70 {
		t.Errorf("the UUID was written only %d times", count)
	}
}

func TestBuildRefuses(t *testing.T) {
	if _, err := Build(testUUID, "x", MinBytes-1); err == nil {
		t.Error("a device that is too small")
	}
	if _, err := Build(testUUID, "more than twelve", MinBytes); err == nil {
		t.Error("a label that is too long")
	}
}

func TestGroupBlocks(t *testing.T) {
	for size, want := range map[int64]uint32{MinBytes: templateBlocks, 4 << 30: 1 << 18, 2 << 40: 1 << 27, 1 << 50: maxGroupBlocks} {
		if got := groupBlocks(size); got != want {
			t.Errorf("%d bytes: %d, want %d", size, got, want)
		}
	}
}

func TestParseSuper(t *testing.T) {
	image, err := Build(testUUID, "wherry-state", 1e9)
	if err != nil {
		t.Fatal(err)
	}
	s, ok := ParseSuper(image.Super[:])
	want := Super{UUID: testUUID, Label: "wherry-state", Blocks: templateBlocks, BlockSize: BlockBytes, Intact: true}
	if !ok || s != want {
		t.Fatalf("%+v, want %+v", s, want)
	}
	image.Super[300]++
	if s, ok := ParseSuper(image.Super[:]); !ok || s.Intact {
		t.Error("damage was not noticed")
	}
	if _, ok := ParseSuper(make([]byte, BlockBytes)); ok {
		t.Error("zeros are XFS")
	}
}

func FuzzParseSuper(f *testing.F) {
	image, err := Build(testUUID, "x", MinBytes)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(image.Super[:])
	f.Fuzz(func(t *testing.T, block []byte) { ParseSuper(block) })
}

func FuzzUnpack(f *testing.F) {
	f.Add(template)
	f.Fuzz(func(t *testing.T, packed []byte) {
		if blocks, err := unpack(packed); err == nil && len(blocks) > maxTemplateBlocks {
			t.Fatal("more blocks than allowed")
		}
	})
}

func writeImage(t *testing.T, size int64) string {
	t.Helper()
	image, err := Build(testUUID, "wherry-state", size)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, b := range append(image.Blocks, Block{Data: image.Super[:]}) {
		if _, err := f.WriteAt(b.Data, b.Offset); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}
