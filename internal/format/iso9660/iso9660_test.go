// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package iso9660

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func judge(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%s is needed as a judge: run tools/setup.sh test", name)
	}
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// sample has names of every kind, and a directory of several blocks. The contents of
// a file are its path, from block 512 on.
func sample() Volume {
	paths := []string{
		"EFI/BOOT/BOOTX64.EFI", "EFI/Linux/wherry_1.0.0.efi", "loader/loader.conf", "README", ".hidden", "two.dots.txt", "dir.with.dots/a",
		strings.Repeat("n", maxName), "d/e/e/p/e/r/file",
	}
	for i := range 60 {
		paths = append(paths, fmt.Sprintf("many/%03d-a-rather-long-file-name.text", i))
	}
	v := Volume{Label: "WHERRY_TEST", Time: time.Date(2026, 11, 20, 10, 20, 30, 0, time.UTC), Blocks: 1024, Boot: 512}
	for i, p := range paths {
		v.Files = append(v.Files, File{Path: p, Block: 512 + uint32(i), Bytes: uint32(len(p))})
	}
	return v
}

func image(t *testing.T, v Volume) string {
	t.Helper()
	encoded, err := v.Encode()
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, v.Blocks*BlockBytes)
	copy(out[Start:], encoded)
	for _, f := range v.Files {
		copy(out[f.Block*BlockBytes:], f.Path)
	}
	path := filepath.Join(t.TempDir(), "image.iso")
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// xorriso, isoinfo and bsdtar find every file under its name, with its contents.
func TestJudges(t *testing.T) {
	v := sample()
	path := image(t, v)
	out := judge(t, "xorriso", "-indev", path, "-report_el_torito", "plain", "-find", "/", "-exec", "report_lba")
	for _, want := range []string{"Volume id    : 'WHERRY_TEST'", "El Torito boot img :   1  UEFI  y   none", "/many/059-a-rather-long-file-name.text'"} {
		if !strings.Contains(out, want) {
			t.Errorf("xorriso does not say %q:\n%s", want, out)
		}
	}
	for _, bad := range []string{"WARNING", "SORRY", "FAILURE", "FATAL"} {
		if strings.Contains(out, bad) {
			t.Errorf("xorriso says %s:\n%s", bad, out)
		}
	}
	out = judge(t, "isoinfo", "-d", "-i", path)
	for _, want := range []string{"Volume size is: 1024", "Rock Ridge signatures version 1 found", "Arch 239", "Nsect 1", "Bootoff 200 512"} {
		if !strings.Contains(out, want) {
			t.Errorf("isoinfo does not say %q:\n%s", want, out)
		}
	}
	plain, rock := judge(t, "isoinfo", "-f", "-i", path), judge(t, "isoinfo", "-R", "-f", "-i", path)
	if !strings.Contains(plain, "/EFI/LINUX/WHERRY_1_0_0.EFI;1\n") {
		t.Errorf("without Rock Ridge:\n%s", plain)
	}
	to := t.TempDir()
	judge(t, "bsdtar", "-C", to, "-xf", path)
	for _, f := range v.Files {
		if !strings.Contains(rock, "/"+f.Path+"\n") {
			t.Errorf("isoinfo does not list %s", f.Path)
		}
		if got, err := os.ReadFile(filepath.Join(to, f.Path)); err != nil || string(got) != f.Path {
			t.Errorf("%s: %q, %v", f.Path, got, err)
		}
	}
}

func TestSameVolumeSameBytes(t *testing.T) {
	v := sample()
	a, err := v.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for i, j := 0, len(v.Files)-1; i < j; i, j = i+1, j-1 {
		v.Files[i], v.Files[j] = v.Files[j], v.Files[i]
	}
	if b, err := v.Encode(); err != nil || !bytes.Equal(a, b) {
		t.Errorf("the order of the files changes the volume (%v)", err)
	}
}

func TestRefuses(t *testing.T) {
	files := func(paths ...string) func(*Volume) {
		return func(v *Volume) {
			v.Files = nil
			for _, p := range paths {
				v.Files = append(v.Files, File{Path: p})
			}
		}
	}
	for name, change := range map[string]func(*Volume){
		"label":            func(v *Volume) { v.Label = "wherry" },
		"no label":         func(v *Volume) { v.Label = "" },
		"time":             func(v *Volume) { v.Time = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC) },
		"boot outside":     func(v *Volume) { v.Boot = v.Blocks },
		"boot too early":   func(v *Volume) { v.Boot = 20 },
		"file outside":     func(v *Volume) { v.Files[0].Block = v.Blocks },
		"long file":        func(v *Volume) { v.Files[0].Bytes = 1<<32 - 1 },
		"no name":          files(""),
		"empty part":       files("a//b"),
		"absolute":         files("/a"),
		"dots":             files("a/../b"),
		"space":            files("a b"),
		"not ASCII":        files("ä"),
		"too long":         files(strings.Repeat("n", maxName+1)),
		"too deep":         files("1/2/3/4/5/6/7/8/9"),
		"twice":            files("a", "a"),
		"one to the old":   files("a+b", "a-b"),
		"file is a folder": files("a", "a/b"),
		"folder is a file": files("a/b", "a"),
	} {
		v := sample()
		change(&v)
		if _, err := v.Encode(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
