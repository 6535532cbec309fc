// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package block

import (
	"bytes"
	"fmt"
	"io"
	"slices"
)

// Content says what is on a disk or partition.
type Content struct {
	// Name of what was recognised ("gpt", "ext4", "luks" …); "empty" when there
	// is nothing, "data" when it is not known what.
	Name string
	// Head is the beginning, for those who look closer: edgeBytes, or less on a small disk.
	Head []byte
}

// Empty tells that nothing at all was found.
func (c Content) Empty() bool { return c.Name == "empty" }

const (
	// edgeBytes at the beginning and at the end are looked at whole. Every
	// file system, volume manager and partition table has its signature there.
	edgeBytes = 1 << 20
	// samples of sampleBytes, spread over the rest, find what has none: an
	// encrypted disk without a header, a disk whose beginning was wiped.
	samples     = 64
	sampleBytes = 4096
)

// signature is bytes at an offset from the beginning.
type signature struct {
	name   string
	offset int
	magic  string
}

// signatures in the order in which they are tried: what contains others, or is
// found together with others, first.
var signatures = []signature{
	{"luks", 0, "LUKS\xba\xbe"},
	{"luks", 0x4000, "SKUL\xba\xbe"},
	{"xfs", 0, "XFSB"},
	{"btrfs", 0x10040, "_BHRfS_M"},
	{"ext4", 0x438, "\x53\xef"},
	{"erofs", 1024, "\xe2\xe1\xf5\xe0"},
	{"f2fs", 1024, "\x10\x20\xf5\xf2"},
	{"squashfs", 0, "hsqs"},
	{"bcachefs", 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca"},
	{"bcache", 4096 + 24, "\xc6\x85\x73\xf6\x66\xce\x90\xa9"},
	{"swap", 4086, "SWAPSPACE2"},
	{"swap", 4086, "SWAP-SPACE"},
	{"md", 0, "\xfc\x4e\x2b\xa9"},
	{"md", 4096, "\xfc\x4e\x2b\xa9"},
	{"lvm", 0, "LABELONE"},
	{"lvm", 512, "LABELONE"},
	{"lvm", 1024, "LABELONE"},
	{"lvm", 1536, "LABELONE"},
	{"exfat", 3, "EXFAT   "},
	{"ntfs", 3, "NTFS    "},
	{"bitlocker", 3, "-FVE-FS-"},
	{"gpt", 512, "EFI PART"},
	{"gpt", 4096, "EFI PART"},
	{"vfat", 82, "FAT32   "},
	{"vfat", 54, "FAT16   "},
	{"vfat", 54, "FAT12   "},
	{"iso9660", 0x8001, "CD001"},
	{"mbr", 510, "\x55\xaa"},
}

// zfsMagic begins an uberblock; the array of them starts at 128 KiB.
var zfsMagic = []string{"\x0c\xb1\xba\x00\x00\x00\x00\x00", "\x00\x00\x00\x00\x00\xba\xb1\x0c"}

// Probe looks what is on a disk or partition of that many bytes. An error
// means that it could not be read: such a disk is not empty.
func Probe(disk io.ReaderAt, size int64) (Content, error) {
	head, err := readAt(disk, 0, min(edgeBytes, size))
	if err != nil {
		return Content{}, fmt.Errorf("read the beginning: %w", err)
	}
	if name := recognise(head); name != "" {
		return Content{Name: name, Head: head}, nil
	}
	end := max(0, size-edgeBytes)
	tail, err := readAt(disk, end, size-end)
	if err != nil {
		return Content{}, fmt.Errorf("read the end: %w", err)
	}
	if !zero(head) || !zero(tail) {
		return Content{Name: nameOfTail(tail), Head: head}, nil
	}
	clean, err := samplesZero(disk, size)
	if err != nil {
		return Content{}, err
	}
	if !clean {
		return Content{Name: "data", Head: head}, nil
	}
	return Content{Name: "empty", Head: head}, nil
}

func recognise(head []byte) string {
	for _, s := range signatures {
		if end := s.offset + len(s.magic); end <= len(head) && string(head[s.offset:end]) == s.magic {
			return s.name
		}
	}
	const uberblocks, uberblockBytes = 128 << 10, 1024
	for at := uberblocks; at+8 <= len(head) && at < 256<<10; at += uberblockBytes {
		if slices.Contains(zfsMagic, string(head[at:at+8])) {
			return "zfs"
		}
	}
	return ""
}

// nameOfTail recognises what has its mark only at the end.
func nameOfTail(tail []byte) string {
	for _, block := range []int{512, 4096} {
		if at := len(tail) - block; at >= 0 && bytes.HasPrefix(tail[at:], []byte("EFI PART")) {
			return "gpt"
		}
	}
	return "data"
}

// samplesZero looks at places spread evenly between the edges.
func samplesZero(disk io.ReaderAt, size int64) (bool, error) {
	step := (size - 2*edgeBytes) / samples / sampleBytes * sampleBytes
	if step <= 0 {
		return true, nil
	}
	for i := range int64(samples) {
		block, err := readAt(disk, edgeBytes+i*step, sampleBytes)
		if err != nil {
			return false, fmt.Errorf("read a sample: %w", err)
		}
		if !zero(block) {
			return false, nil
		}
	}
	return true, nil
}

func readAt(disk io.ReaderAt, offset, n int64) ([]byte, error) {
	b := make([]byte, n)
	// A reader may tell its end together with all that was asked for.
	if got, err := disk.ReadAt(b, offset); err != nil && int64(got) < n {
		return nil, err
	}
	return b, nil
}

func zero(b []byte) bool {
	for len(b) >= 8 {
		if b[0]|b[1]|b[2]|b[3]|b[4]|b[5]|b[6]|b[7] != 0 {
			return false
		}
		b = b[8:]
	}
	return len(bytes.Trim(b, "\x00")) == 0
}
