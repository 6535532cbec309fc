// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package vhd

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

var made = time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)

// qemu-img takes the file for a VHD of the very size, also where it is told to
// believe the geometry, and finds the disk's bytes in it.
func TestQemuImgAgrees(t *testing.T) {
	for _, n := range []int64{1, 40 << 20, 514 << 20, 1 << 30, 10 << 30} {
		size := Round(n)
		if size < n || size%(1<<20) != 0 || size > n+256<<20 {
			t.Errorf("Round(%d) is %d", n, size)
		}
		footer, err := Footer(size, [16]byte{1, 2, 3}, made)
		if err != nil {
			t.Fatal(err)
		}
		raw, file := filepath.Join(t.TempDir(), "raw"), filepath.Join(t.TempDir(), "vhd")
		for path, more := range map[string][]byte{raw: nil, file: footer} {
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			_, e1 := f.WriteAt([]byte("end"), size-3)
			_, e2 := f.WriteAt(more, size)
			if err := errors.Join(e1, e2, f.Close()); err != nil {
				t.Fatal(err)
			}
		}
		for _, option := range []string{"force_size_calc=chs", "force_size_calc=current_size"} {
			out, err := exec.Command("qemu-img", "info", "--output=json", "--image-opts", "driver=vpc,"+option+",file.filename="+file).Output()
			var info struct {
				Size int64 `json:"virtual-size"`
			}
			if err := errors.Join(err, json.Unmarshal(out, &info)); err != nil || info.Size != size {
				t.Errorf("%s: a disk of %d is %d to qemu-img, %v", option, size, info.Size, err)
			}
		}
		if out, err := exec.Command("qemu-img", "compare", "-f", "raw", "-F", "vpc", raw, file).CombinedOutput(); err != nil {
			t.Errorf("qemu-img compare: %s", out)
		}
	}
}

func TestFooter(t *testing.T) {
	size := Round(1 << 30)
	a, err := Footer(size, [16]byte{1}, made)
	if err != nil || len(a) != 512 || !bytes.HasPrefix(a, []byte("conectix")) {
		t.Fatalf("%q, %v", a, err)
	}
	var sum uint32
	for i, c := range a {
		if i < 64 || i >= 68 {
			sum += uint32(c)
		}
	}
	if big.Uint32(a[64:]) != ^sum {
		t.Error("the checksum is wrong")
	}
	if b, _ := Footer(size, [16]byte{1}, made); !bytes.Equal(a, b) {
		t.Error("two footers of one disk differ")
	}
}

func TestRefuses(t *testing.T) {
	size := Round(1 << 30)
	for _, n := range []int64{0, -1, size + 512, size + 1<<20, 1 << 40} {
		if _, err := Footer(n, [16]byte{}, made); err == nil {
			t.Errorf("%d bytes: no error", n)
		}
	}
	if _, err := Footer(size, [16]byte{}, time.Unix(0, 0)); err == nil {
		t.Error("a time before 2000: no error")
	}
	if Round(1<<40) != 0 {
		t.Error("a size is found that does not exist")
	}
}
