// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package gnutar

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var made = time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)

// GNU tar, bsdtar and Go unpack the very file, and the first leaves the holes.
func TestJudges(t *testing.T) {
	many := make([]Range, 60)
	for i := range many {
		many[i] = Range{int64(i) * 10_240, int64(1+i%3) * 512}
	}
	for name, c := range map[string]struct {
		size   int64
		ranges []Range
	}{
		"a hole":               {1 << 20, nil},
		"no hole":              {5120, []Range{{0, 5120}}},
		"a hole at the end":    {64 << 20, []Range{{0, 512}, {1 << 20, 102_400}}},
		"data at the end":      {1 << 20, []Range{{1<<20 - 512, 512}}},
		"as many as fit":       {1 << 20, many[:4]},
		"one block more":       {1 << 20, many[:5]},
		"three blocks more":    {1 << 20, many},
		"exactly three blocks": {many[45].Offset + many[45].Bytes, many[:46]},
	} {
		want := filepath.Join(t.TempDir(), "want")
		f, err := os.Create(want)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(c.size); err != nil {
			t.Fatal(err)
		}
		for _, r := range c.ranges {
			if _, err := f.WriteAt(bytes.Repeat([]byte("data"), int(r.Bytes)/4+1)[:r.Bytes], r.Offset); err != nil {
				t.Fatal(err)
			}
		}
		var b bytes.Buffer
		if err := Write(&b, File{"disk.raw", c.size, made, c.ranges}, f); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, program := range []string{"tar", "bsdtar"} {
			dir := t.TempDir()
			cmd := exec.Command(program, "-xSf", "-", "-C", dir)
			if program == "bsdtar" {
				cmd.Args = []string{"bsdtar", "-xf", "-", "-C", dir}
			}
			cmd.Stdin = bytes.NewReader(b.Bytes())
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %s: %s", name, program, out)
			}
			if out, err := exec.Command("cmp", want, filepath.Join(dir, "disk.raw")).CombinedOutput(); err != nil {
				t.Errorf("%s: %s unpacks another file: %s", name, program, out)
			}
		}
		h, err := tar.NewReader(bytes.NewReader(b.Bytes())).Next()
		if err != nil || h.Size != c.size || h.Format != tar.FormatGNU || !h.ModTime.Equal(made) {
			t.Errorf("%s: Go reads %+v, %v", name, h, err)
		}
	}
}

func TestRefuses(t *testing.T) {
	for name, f := range map[string]File{
		"no name":   {Bytes: 1, Time: made},
		"long name": {Name: strings.Repeat("x", 100), Bytes: 1, Time: made},
		"too large": {Name: "x", Bytes: 1 << 33, Time: made},
		"no time":   {Name: "x", Bytes: 1},
		"overlap":   {Name: "x", Bytes: 5120, Time: made, Data: []Range{{0, 512}, {0, 512}}},
		"outside":   {Name: "x", Bytes: 100, Time: made, Data: []Range{{512, 512}}},
		"no block":  {Name: "x", Bytes: 5120, Time: made, Data: []Range{{0, 10}}},
		"cut short": {Name: "x", Bytes: 5120, Time: made, Data: []Range{{0, 512}}},
	} {
		if err := Write(io.Discard, f, bytes.NewReader(nil)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
