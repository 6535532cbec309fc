// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package differ

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"wherry.example/wherry/internal/format/delta"
	"wherry.example/wherry/internal/format/pe"
	"wherry.example/wherry/internal/format/pe/petest"
	"wherry.example/wherry/internal/host/bootimage"
	"wherry.example/wherry/internal/host/rootfs"
)

// shim builds the program that applies deltas, once.
var shim = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "wherry-differ-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "wherry-shim")
	cmd := exec.Command("go", "build", "-o", path, "wherry.example/wherry/cmd/wherry-shim")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build wherry-shim: %w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	if path, err := shim(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path)) // it is in the temporary folder
	}
	os.Exit(status)
}

func theProgram(t *testing.T) Program {
	t.Helper()
	path, err := shim()
	if err != nil {
		t.Fatal(err)
	}
	return FileProgram(path)
}

// words are what programs are like: they compress, but not to nothing.
func words(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	var b []byte
	for len(b) < n {
		b = fmt.Appendf(b, "%x %s ", r.Uint32()&0xfff, []string{"push", "move", "call", "return"}[r.IntN(4)])
	}
	return b[:n]
}

// osFile builds a small OS file as package image does.
func osFile(t *testing.T, kernel []byte, initProgram []byte, files map[string][]byte) []byte {
	t.Helper()
	root, early := &rootfs.Tree{}, &rootfs.Tree{}
	err := errors.Join(root.File("sbin/init", 0o755, initProgram), early.File("init", 0o755, initProgram), early.File("modules/index", 0o644, []byte("none")))
	for name, data := range files {
		err = errors.Join(err, root.File(name, 0o644, data))
	}
	if err != nil {
		t.Fatal(err)
	}
	file, err := bootimage.Squashfs(t.Context(), root, t.TempDir(), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	packed, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var initramfs bytes.Buffer
	if err := bootimage.Initramfs(&initramfs, early, packed); err != nil {
		t.Fatal(err)
	}
	stub, err := pe.Parse(petest.Stub(".text", ".sbat"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := stub.Append(pe.Added{Name: ".osrel", Data: []byte("IMAGE_VERSION=1")}, pe.Added{Name: ".initrd", Data: initramfs.Bytes()}, pe.Added{Name: ".linux", Data: kernel})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func open(t *testing.T, data []byte) *File {
	t.Helper()
	f, err := Open(data)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// changed inserts a line in the middle.
func changed(b []byte) []byte {
	return bytes.Join([][]byte{b[:len(b)/2], []byte("one more line "), b[len(b)/2:]}, nil)
}

func with(files map[string][]byte, name string, data []byte) map[string][]byte {
	out := map[string][]byte{name: data}
	for n, d := range files {
		if n != name {
			out[n] = d
		}
	}
	return out
}

// TestMake makes deltas between OS files and applies them with the program that
// machines have. Each must give the file, and be as small as the change.
func TestMake(t *testing.T) {
	noise := make([]byte, 300_000)
	r := rand.New(rand.NewPCG(9, 9))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	base := map[string][]byte{
		"bin/big": words(1, 540_000), "bin/other": words(2, 60_000), "lib/small": words(3, 5000),
		"lib/noise": noise, "etc/release": []byte("1.0.0"),
	}
	kernel, first := words(4, 100_000), words(5, 20_000)
	old := osFile(t, kernel, first, base)
	more := with(base, "lib/more", words(6, 20_000))
	delete(more, "bin/other")
	for name, c := range map[string]struct {
		data []byte
		most int // bytes of the delta
	}{
		"nothing":                    {old, 900},
		"a line in a program":        {osFile(t, kernel, first, with(base, "bin/big", changed(base["bin/big"]))), 1500},
		"a small file":               {osFile(t, kernel, first, with(base, "etc/release", []byte("1.0.1"))), 1200},
		"what is stored":             {osFile(t, kernel, first, with(base, "lib/noise", changed(noise))), 1500},
		"init, which is there twice": {osFile(t, kernel, changed(first), base), 1500},
		"the kernel":                 {osFile(t, changed(kernel), first, base), 1200},
		"files come and go":          {osFile(t, kernel, first, more), 9000},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Make(t.Context(), open(t, old), open(t, c.data), Options{Packer: theProgram(t), Compress: XZ})
			if err != nil {
				t.Fatal(err)
			}
			v, err := theProgram(t).Apply(t.Context(), old, c.data, d)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d bytes of %d, %d MB of memory", len(d), len(c.data), v.Memory>>20)
			if len(d) > c.most {
				t.Errorf("the delta has %d bytes, more than %d", len(d), c.most)
			}
		})
	}
}

// TestKernel: a payload that no machine could pack again comes as its choices, and
// one whose old counterpart is packed otherwise comes whole.
func TestKernel(t *testing.T) {
	content := words(21, 700_000)
	files := map[string][]byte{"a": words(1, 9000)}
	plain, old := osFile(t, content[:9000], nil, files), osFile(t, bootable(t, content), nil, files)
	data := osFile(t, bootable(t, changed(changed(content))), nil, files)
	for name, c := range map[string]struct {
		old         []byte
		least, most int
	}{"as before": {old, 0, 4500}, "nothing like it before": {plain, 100_000, len(data)}} {
		d, err := Make(t.Context(), open(t, c.old), open(t, data), Options{Packer: theProgram(t), Compress: XZ})
		if err != nil {
			t.Fatal(err)
		}
		v, err := theProgram(t).Apply(t.Context(), c.old, data, d)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d bytes of %d, %d MB of memory", name, len(d), len(data), v.Memory>>20)
		if len(d) < c.least || len(d) > c.most {
			t.Errorf("%s: the delta has %d bytes, and should have %d to %d", name, len(d), c.least, c.most)
		}
	}
}

// TestLiterals: a compressor that packs otherwise costs bytes, not truth.
func TestLiterals(t *testing.T) {
	base := map[string][]byte{"bin/big": words(1, 270_000)}
	old := osFile(t, words(4, 1000), words(5, 9000), base)
	data := osFile(t, words(4, 1000), words(5, 9000), with(base, "bin/big", changed(base["bin/big"])))
	d, err := Make(t.Context(), open(t, old), open(t, data), Options{Packer: otherwise{theProgram(t)}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := theProgram(t).Apply(t.Context(), old, data, d); err != nil {
		t.Fatal(err)
	}
	if len(d) < 40_000 {
		t.Errorf("%d bytes: nothing of it is literal", len(d))
	}
}

// otherwise packs with other parameters.
type otherwise struct{ Program }

func (o otherwise) Pack(ctx context.Context, p delta.Parameters, contents [][]byte, done func(int)) ([][]byte, error) {
	p.WindowLog, p.ChainLog, p.HashLog = 12, 12, 12
	return o.Program.Pack(ctx, p, contents, done)
}

// TestProgramOf runs the program that lies in the old file.
func TestProgramOf(t *testing.T) {
	script := []byte("#!/bin/sh\necho zstd-of-old-days\n")
	p, err := ProgramOf(open(t, osFile(t, []byte("kernel"), nil, map[string][]byte{"bin/wherry-shim": script})), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if codec, err := p.Codec(t.Context()); err != nil || codec != "zstd-of-old-days" {
		t.Errorf("%q, %v", codec, err)
	}
	if _, err := ProgramOf(open(t, osFile(t, []byte("kernel"), nil, map[string][]byte{"x": []byte("x")})), t.TempDir()); !errors.Is(err, ErrCannot) {
		t.Errorf("%v", err)
	}
	if _, err := FileProgram("/bin/false").Codec(t.Context()); !errors.Is(err, ErrCannot) {
		t.Errorf("%v", err)
	}
}

// TestApplyIsAJudge: a wrong delta is found, and a program that hangs can be ended.
func TestApplyIsAJudge(t *testing.T) {
	old := osFile(t, words(4, 1000), words(5, 9000), map[string][]byte{"a": words(1, 9000)})
	d, err := Make(t.Context(), open(t, old), open(t, old), Options{Packer: theProgram(t)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := theProgram(t).Apply(t.Context(), old, append(bytes.Clone(old), 0), d); err == nil || !strings.Contains(err.Error(), "new file") {
		t.Errorf("another file passed: %v", err)
	}
	if _, err := theProgram(t).Apply(t.Context(), old[:len(old)-1], old, d); err == nil || !strings.Contains(err.Error(), "another old file") {
		t.Errorf("another old file passed: %v", err)
	}
	path := filepath.Join(t.TempDir(), "hangs")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexec sleep 60\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := FileProgram(path).Apply(ctx, old, old, d); err == nil {
		t.Error("a program that hangs passed")
	}
}

// FuzzOpen: a damaged OS file is an error or a file whose parts are within it.
func FuzzOpen(f *testing.F) {
	f.Add([]byte("no file"))
	f.Add(petest.Stub(".text", ".initrd", ".linux"))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := Open(data)
		if err != nil {
			return
		}
		var total int64
		for _, g := range o.gaps() {
			total += g.Bytes
		}
		for _, p := range o.pieces {
			total += p.Bytes
		}
		if total != int64(len(data)) {
			t.Errorf("%d of %d bytes", total, len(data))
		}
	})
}
