// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"wherry.example/wherry/internal/format/gnutar"
)

// Each format of the clouds is to qemu-img and tar what it should be, of the size
// that importers demand, and the disk in it is right to the end: sgdisk finds
// both copies of the table, and the boot partition is that of the raw disk.
func TestClouds(t *testing.T) {
	want := raw(t, contents)
	for name, c := range map[string]struct {
		write  func(string, Contents) error
		unpack func(t *testing.T, path, to string)
		size   func(bytes int64) bool
	}{
		"vhd":  {WriteVHD, image("vpc"), func(n int64) bool { return n%(1<<20) == 0 && n >= 1<<30 && n < 2<<30 }},
		"vmdk": {WriteVMDK, image("vmdk"), func(n int64) bool { return n == 8<<30 }},
		"ova": {WriteOVA, func(t *testing.T, path, to string) {
			dir := t.TempDir()
			judge(t, "tar", "-xf", path, "-C", dir)
			image("vmdk")(t, filepath.Join(dir, "wherry.vmdk"), to)
		}, func(n int64) bool { return n == 8<<30 }},
		"gce": {WriteGCE, func(t *testing.T, path, to string) {
			dir := t.TempDir()
			judge(t, "tar", "-xSzf", path, "-C", dir)
			if err := os.Rename(filepath.Join(dir, "disk.raw"), to); err != nil {
				t.Fatal(err)
			}
		}, func(n int64) bool { return n == 1<<30 }},
	} {
		t.Run(name, func(t *testing.T) {
			path, again, to := filepath.Join(t.TempDir(), "image"), filepath.Join(t.TempDir(), "again"), filepath.Join(t.TempDir(), "raw")
			for _, p := range []string{path, again} {
				if err := c.write(p, contents); err != nil {
					t.Fatal(err)
				}
			}
			judge(t, "cmp", path, again)
			c.unpack(t, path, to)
			if fi, err := os.Stat(to); err != nil || !c.size(fi.Size()) {
				t.Errorf("the disk has %d bytes, %v", fi.Size(), err)
			}
			if out := judge(t, "sgdisk", "-v", "-p", to); !strings.Contains(out, "No problems found") || !strings.Contains(out, "wherry-boot") {
				t.Errorf("sgdisk:\n%s", out)
			}
			judge(t, "cmp", "-i", "1M", "-n", "512M", want, to)
		})
	}
}

// image unpacks with qemu-img, which must find nothing wrong.
func image(format string) func(t *testing.T, path, to string) {
	return func(t *testing.T, path, to string) {
		t.Helper()
		if format == "vmdk" {
			judge(t, "qemu-img", "check", "-f", format, path)
		}
		var info struct {
			Format string `json:"format"`
		}
		if err := json.Unmarshal([]byte(judge(t, "qemu-img", "info", "--output=json", path)), &info); err != nil || info.Format != format && format != "vpc" {
			t.Errorf("qemu-img takes it for %s (%v)", info.Format, err)
		}
		judge(t, "qemu-img", "convert", "-f", format, "-O", "raw", path, to)
	}
}

func TestSparse(t *testing.T) {
	const size = 1<<30 + 4096
	s := &sparse{size: size}
	for at, text := range map[int64]string{0: "begin", pageBytes - 2: "across", 512 << 20: "middle", size - 3: "end"} {
		if _, err := s.WriteAt([]byte(text), at); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(text))
		if n, err := s.ReadAt(got, at); n != len(text) || err != nil || string(got) != text {
			t.Errorf("%q at %d reads %q, %v", text, at, got, err)
		}
	}
	want := []gnutar.Range{{Offset: 0, Bytes: 2 * pageBytes}, {Offset: 512 << 20, Bytes: pageBytes}, {Offset: 1 << 30, Bytes: 4096}}
	if got := s.ranges(); !slices.Equal(got, want) {
		t.Errorf("written: %v, want %v", got, want)
	}
	for at, blank := range map[int64]bool{0: false, 2 * pageBytes: true, 512<<20 - pageBytes: true, 512 << 20: false, 600 << 20: true} {
		if s.Blank(at, pageBytes) != blank || blank != s.Blank(at, pageBytes-1) {
			t.Errorf("blank at %d: %v", at, !blank)
		}
	}
	if s.Blank(0, size) || s.Blank(500<<20, 20<<20) || !s.Blank(1<<20, 500<<20) {
		t.Error("large ranges: wrong")
	}
	if _, err := s.WriteAt([]byte("x"), size); err == nil {
		t.Error("a write behind the end: no error")
	}
	got := bytes.Repeat([]byte("x"), 10)
	if n, err := s.ReadAt(got, size-5); n != 5 || err == nil || string(got[:5]) != "\x00\x00end" {
		t.Errorf("a read over the end: %d bytes %q, %v", n, got, err)
	}
}
