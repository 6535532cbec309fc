// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ar

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// realArchive has binutils' ar make an archive of two members, one of odd size.
func realArchive(t testing.TB) []byte {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"one": "odd", "second": strings.Repeat("even", 1000)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("ar", "qcS", "out", "one", "second")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); errors.Is(err, exec.ErrNotFound) {
		t.Skip("ar (binutils) is not installed")
	} else if err != nil {
		t.Fatalf("ar: %v: %s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readAll(b []byte) (map[string]string, error) {
	out := map[string]string{}
	for a := NewReader(bytes.NewReader(b)); ; {
		name, size, err := a.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		data, err := io.ReadAll(a)
		if err != nil {
			return out, err
		}
		if int64(len(data)) != size {
			return out, errors.New("the size is not the length")
		}
		out[name] = string(data)
	}
}

func TestReadsWhatArWrites(t *testing.T) {
	got, err := readAll(realArchive(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got["one"] != "odd" || got["second"] != strings.Repeat("even", 1000) {
		t.Errorf("members are %q", got)
	}
}

func TestSkipsUnreadMembers(t *testing.T) {
	a := NewReader(bytes.NewReader(realArchive(t)))
	for _, want := range []string{"one", "second"} {
		if name, _, err := a.Next(); err != nil || name != want {
			t.Fatalf("Next is %q, %v; want %q", name, err, want)
		}
	}
	if _, _, err := a.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last member: %v", err)
	}
}

func TestRefusesBroken(t *testing.T) {
	member := "name/           0           0     0     644     4         `\ndata"
	if got, err := readAll([]byte(magic + member)); err != nil || got["name"] != "data" {
		t.Fatalf("the good one: %v, %v", got, err)
	}
	for name, b := range map[string]string{
		"empty":           "",
		"no magic":        "!<arkh>\n" + member,
		"cut header":      magic + member[:30],
		"cut data":        magic + member[:62],
		"bad end mark":    magic + strings.Replace(member, "`", "'", 1),
		"negative size":   magic + strings.Replace(member, " 4         `", " -4        `", 1),
		"size not number": magic + strings.Replace(member, "4         `", "x         `", 1),
	} {
		if got, err := readAll([]byte(b)); err == nil {
			t.Errorf("%s: no error, members %q", name, got)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(magic + "name/           0           0     0     644     4         `\ndata"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readAll(b)
		n := 0
		for _, data := range got {
			n += len(data)
		}
		if n > len(b) {
			t.Errorf("%d bytes out of %d (%v)", n, len(b), err)
		}
	})
}
