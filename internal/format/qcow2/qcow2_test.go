// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package qcow2

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// disk is a sparse disk with data at some offsets.
func disk(t *testing.T, size int64, data map[int64][]byte) *os.File {
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
	return f
}

func judge(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := exec.Command("qemu-img", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("qemu-img %q: %v\n%s", args, err, out)
	}
	return out
}

// qemu-img finds the image whole, of the right version and size, and the same
// as the disk.
func TestQemuImgAgrees(t *testing.T) {
	noise := bytes.Repeat([]byte("0123456789"), 40_000)
	for name, c := range map[string]struct {
		size     int64
		data     map[int64][]byte
		clusters int64 // of data
	}{
		"empty":               {1 << 30, nil, 0},
		"one byte at the end": {1 << 20, map[int64][]byte{1<<20 - 1: {1}}, 1},
		"an odd end":          {1<<20 + 512, map[int64][]byte{1<<20 + 511: {1}, 0: {2}}, 2},
		"one sector":          {512, map[int64][]byte{0: {1}}, 1},
		"several tables":      {2 << 30, map[int64][]byte{0: noise, 1<<30 - 100: noise, 2<<30 - 400_000: noise}, 7 + 8 + 7},
		"many data":           {1 << 30, map[int64][]byte{0: bytes.Repeat(noise, 200), 1 << 29: noise}, 1221 + 7},
	} {
		f := disk(t, c.size, c.data)
		image := filepath.Join(t.TempDir(), "disk.qcow2")
		out, err := os.Create(image)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(Write(out, f, c.size), out.Close()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var check struct {
			Errors   int   `json:"check-errors"`
			Leaks    int   `json:"leaks"`
			Clusters int64 `json:"allocated-clusters"`
		}
		if err := json.Unmarshal(judge(t, "check", "--output=json", "-f", "qcow2", image), &check); err != nil {
			t.Fatal(err)
		}
		if check.Errors != 0 || check.Leaks != 0 || check.Clusters != c.clusters {
			t.Errorf("%s: qemu-img check: %+v, want %d clusters", name, check, c.clusters)
		}
		var info struct {
			Size     int64 `json:"virtual-size"`
			Specific struct {
				Data struct {
					Compat string `json:"compat"`
				} `json:"data"`
			} `json:"format-specific"`
		}
		if err := json.Unmarshal(judge(t, "info", "--output=json", "-f", "qcow2", image), &info); err != nil {
			t.Fatal(err)
		}
		if info.Size != c.size || info.Specific.Data.Compat != "1.1" {
			t.Errorf("%s: qemu-img info: %+v", name, info)
		}
		judge(t, "compare", "-f", "raw", "-F", "qcow2", f.Name(), image)
	}
}

// A disk so large that the counts of its clusters take several blocks.
func TestCountsCountThemselves(t *testing.T) {
	full, err := plan(ones{}, 3<<30)
	if err != nil {
		t.Fatal(err)
	}
	if full.refBlocks*countsPerBlock < full.clusters() || len(full.used) != 3<<14 || full.refBlocks != 2 {
		t.Errorf("%d blocks of counts for %d clusters", full.refBlocks, full.clusters())
	}
}

// ones is a disk without a zero.
type ones struct{}

func (ones) ReadAt(p []byte, _ int64) (int, error) {
	p[0] = 1
	return len(p), nil
}

func TestSameDiskSameBytes(t *testing.T) {
	f := disk(t, 300<<20, map[int64][]byte{77 << 20: []byte("x")})
	var sums [2][32]byte
	for i := range sums {
		h := sha256.New()
		if err := Write(h, f, 300<<20); err != nil {
			t.Fatal(err)
		}
		sums[i] = [32]byte(h.Sum(nil))
	}
	if sums[0] != sums[1] {
		t.Error("two images of one disk differ")
	}
}

func TestRefuses(t *testing.T) {
	for _, size := range []int64{0, -512, 100, 1<<40 + 512} {
		if err := Write(io.Discard, ones{}, size); err == nil {
			t.Errorf("a disk of %d bytes: no error", size)
		}
	}
	if err := Write(io.Discard, bytes.NewReader(make([]byte, 512)), 1024); err == nil {
		t.Error("a disk that is shorter than was said: no error")
	}
}
