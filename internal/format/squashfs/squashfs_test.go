// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package squashfs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sample are files that make whole blocks, ends in shared blocks, blocks that
// do not compress, equal files, and many names.
func sample() map[string][]byte {
	random := make([]byte, 300_000)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	files := map[string][]byte{
		"bin/big":        bytes.Repeat([]byte("a program with many equal words\n"), 20_000),
		"bin/same":       bytes.Repeat([]byte("a program with many equal words\n"), 20_000),
		"random":         random,
		"small":          []byte("small"),
		"empty":          nil,
		"deep/er/than/x": bytes.Repeat([]byte{7}, 131072),
	}
	for i := range 900 {
		files[fmt.Sprintf("many/file-%04d", i)] = fmt.Appendf(nil, "file %d", i)
	}
	return files
}

func pack(t testing.TB, files map[string][]byte, options ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath("mksquashfs"); err != nil {
		t.Skip("mksquashfs is not installed")
	}
	dir := t.TempDir()
	for name, data := range files {
		path := filepath.Join(dir, "root", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "image")
	args := append([]string{filepath.Join(dir, "root"), out, "-quiet", "-no-progress", "-comp", "zstd", "-b", "128K"}, options...)
	if text, err := exec.Command("mksquashfs", args...).CombinedOutput(); err != nil {
		t.Fatalf("mksquashfs: %v: %s", err, text)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestReadsWhatMksquashfsWrote, file by file, and covers the image with blocks but for few bytes.
func TestReadsWhatMksquashfsWrote(t *testing.T) {
	for _, options := range [][]string{nil, {"-no-fragments"}, {"-no-exports", "-noI"}, {"-always-use-fragments"}} {
		files := sample()
		data := pack(t, files, options...)
		i, err := Parse(data)
		if err != nil {
			t.Fatal(options, err)
		}
		got := map[string][]byte{}
		for _, f := range i.Files {
			got[f.Path] = i.Content(f)
		}
		delete(files, "empty")
		if diff := cmp.Diff(files, got); diff != "" {
			t.Errorf("%v: %.2000s", options, diff)
		}
		covered := 0
		for _, b := range i.Blocks {
			covered += int(b.Bytes)
		}
		if rest := len(data) - covered; rest > 8<<10 { // superblock, identities, padding
			t.Errorf("%v: %d bytes are in no block", options, rest)
		}
		var tables []string
		for _, f := range i.Tables {
			tables = append(tables, f.Path)
		}
		slices.Sort(tables)
		want := []string{"directories", "fragments", "inodes"}
		if slices.Contains(options, "-no-fragments") {
			want = []string{"directories", "inodes"}
		}
		if diff := cmp.Diff(want, tables); diff != "" {
			t.Error(diff)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(pack(f, map[string][]byte{"a": bytes.Repeat([]byte("abc"), 10_000), "b/c": []byte("c")}))
	f.Fuzz(func(_ *testing.T, data []byte) {
		i, err := Parse(data)
		if err != nil {
			return
		}
		for _, file := range i.Files[:min(len(i.Files), 10)] {
			i.Content(file)
		}
	})
}
