// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package cpio

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type entry struct {
	Header
	data string
}

var sample = []entry{
	{Header{Name: "dir", Mode: 0o040755}, ""},
	{Header{Name: "dir/odd", Mode: 0o100600}, "abc"},
	{Header{Name: "dir/empty", Mode: 0o100644}, ""},
	{Header{Name: "large", Mode: 0o100444}, strings.Repeat("x", 1<<20+1)},
	{Header{Name: "link", Mode: 0o120777}, "dir/odd"},
}

func archive(t testing.TB, entries []entry) []byte {
	t.Helper()
	var b bytes.Buffer
	c := NewWriter(&b)
	for _, e := range entries {
		e.Size = int64(len(e.data))
		e.Time = time.Unix(1_800_000_000, 0)
		if err := c.WriteHeader(e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(e.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// judges are programs that are not ours and extract an archive from stdin.
var judges = map[string][]string{
	"cpio":   {"cpio", "-idm", "--quiet", "--no-absolute-filenames"},
	"bsdtar": {"bsdtar", "-xpf", "-"},
}

func TestOthersExtractIt(t *testing.T) {
	b := archive(t, sample)
	if len(b)%512 != 0 {
		t.Errorf("%d bytes are not whole blocks", len(b))
	}
	for name, command := range judges {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(command[0]); err != nil {
				t.Skipf("%s is not installed", command[0])
			}
			dir := t.TempDir()
			cmd := exec.Command(command[0], command[1:]...)
			cmd.Dir, cmd.Stdin = dir, bytes.NewReader(b)
			if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
				t.Fatalf("%v: %s", err, out)
			}
			if diff := cmp.Diff(describe(sample), readBack(t, dir)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func describe(entries []entry) []string {
	var out []string
	for _, e := range entries {
		kind := fs.FileMode(e.Mode & 0o777)
		switch e.Mode &^ 0o777 {
		case 0o040000:
			kind |= fs.ModeDir
		case 0o120000:
			kind |= fs.ModeSymlink
		}
		out = append(out, strings.Join([]string{e.Name, kind.String(), e.data}, " "))
	}
	slices.Sort(out)
	return out
}

func readBack(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		name, _ := filepath.Rel(dir, p)
		fi, err := d.Info()
		if err != nil {
			return err
		}
		var data []byte
		if fi.Mode().IsRegular() {
			data, err = os.ReadFile(p)
		} else if fi.Mode()&fs.ModeSymlink != 0 {
			var target string
			target, err = os.Readlink(p)
			data = []byte(target)
		}
		out = append(out, strings.Join([]string{name, fi.Mode().String(), string(data)}, " "))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func TestSameBytesTwice(t *testing.T) {
	if !bytes.Equal(archive(t, sample), archive(t, sample)) {
		t.Error("two archives of the same entries differ")
	}
}

func TestRefuses(t *testing.T) {
	for name, h := range map[string]Header{
		"no name":        {Mode: 0o100644},
		"trailer's name": {Name: trailer},
		"zero in name":   {Name: "a\x00b"},
		"too large":      {Name: "a", Size: 1 << 32},
		"negative":       {Name: "a", Size: -1},
	} {
		if err := NewWriter(&bytes.Buffer{}).WriteHeader(h); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestHoldsToTheSize(t *testing.T) {
	c := NewWriter(&bytes.Buffer{})
	if err := c.WriteHeader(Header{Name: "a", Size: 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("four")); err == nil {
		t.Error("more bytes than the header said were taken")
	}
	if err := c.Close(); err == nil {
		t.Error("an archive with a missing content was closed")
	}
	if err := c.WriteHeader(Header{Name: "b"}); err == nil {
		t.Error("an entry was begun before the last one was complete")
	}
}

func TestWriteError(t *testing.T) {
	c := NewWriter(broken{})
	if err := c.WriteHeader(Header{Name: "a"}); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("the error is %v", err)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, fs.ErrClosed }
