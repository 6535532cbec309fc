// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package kernelmodule

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// object compiles sections as a module has them.
func object(t testing.TB) []byte {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "m.s")
	text := `.text
f: ret
.section __mcount_loc,"a"
.quad f
.section _ftrace_eval_map,"aw"
.quad f
.section .BTF,"a"
.long 1
.section .keep,"a"
.long 2
`
	if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "m.o")
	if b, err := exec.Command("gcc", "-c", "-o", out, source).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, b)
	}
	image, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func sign(image []byte, length uint32) []byte {
	out := append(bytes.Clone(image), bytes.Repeat([]byte{0xaa}, 100)...)
	out = append(out, make([]byte, signatureInfo-4)...)
	out = binary.BigEndian.AppendUint32(out, length)
	return append(out, signatureMark...)
}

func TestUnsigned(t *testing.T) {
	image := []byte("module")
	if got := unsigned(sign(image, 100)); !bytes.Equal(got, image) {
		t.Errorf("unsigned: %d bytes, want %d", len(got), len(image))
	}
	for name, bad := range map[string][]byte{"none": image, "too long": sign(image, 1<<31), "mark alone": []byte(signatureMark)} {
		if got := unsigned(bad); !bytes.Equal(got, bad) {
			t.Errorf("%s: %d bytes, want all %d", name, len(got), len(bad))
		}
	}
}

func TestHideIdle(t *testing.T) {
	image := object(t)
	image = Trim(sign(image, 100))
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range idle {
		if f.Section(name) != nil {
			t.Errorf("section %s is still found", name)
		}
	}
	hidden := 0
	for _, s := range f.Sections {
		if len(s.Name) > 1 && isIdle(append([]byte(s.Name), 0)) {
			hidden++
			if s.Flags&elf.SHF_ALLOC != 0 {
				t.Errorf("%s still asks for memory", s.Name)
			}
		}
	}
	if hidden != 3 {
		t.Errorf("%d sections hidden, want 3", hidden)
	}
	if keep := f.Section(".keep"); keep == nil || keep.Flags&elf.SHF_ALLOC == 0 {
		t.Error("a section that is used was changed")
	}
}

func FuzzTrim(f *testing.F) {
	image := object(f)
	f.Add(image)
	f.Add(sign(image, 100))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := len(b)
		Trim(b)
		if len(b) != before {
			t.Fatal("the image changed its size")
		}
	})
}
