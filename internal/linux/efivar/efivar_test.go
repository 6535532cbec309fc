// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package efivar

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/format/efitext"
)

var name = Name{"Test", Loader}

func TestReadWriteDelete(t *testing.T) {
	v := Variables{Dir: t.TempDir()}
	if err := v.Open(); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Read(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("one that is not there: %v", err)
	}
	if text, err := v.Text(name); text != "" || err != nil {
		t.Errorf("text that is not there: %q, %v", text, err)
	}
	if yes, err := v.Flag(name); yes || err != nil {
		t.Errorf("flag that is not there: %v, %v", yes, err)
	}
	if err := v.Delete(name); err != nil {
		t.Errorf("delete what is not there: %v", err)
	}
	if err := v.Write(name, efitext.Encode("wherry_1.0.0.efi")); err != nil {
		t.Fatal(err)
	}
	if text, err := v.Text(name); text != "wherry_1.0.0.efi" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	raw, err := os.ReadFile(filepath.Join(v.Dir, "Test-"+Loader))
	if err != nil || !bytes.HasPrefix(raw, []byte{7, 0, 0, 0, 'w', 0}) {
		t.Errorf("the file is %x, %v", raw, err)
	}
	if names, err := v.List(Loader); err != nil || !slices.Equal(names, []string{"Test"}) {
		t.Errorf("%q, %v", names, err)
	}
	if names, err := v.List(Global); err != nil || len(names) != 0 {
		t.Errorf("of another vendor: %q, %v", names, err)
	}
	if err := v.Delete(name); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Read(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("one that was deleted: %v", err)
	}
}

// The flash wears: what is as it should be is not written.
func TestSameIsNotWritten(t *testing.T) {
	v := Variables{Dir: t.TempDir()}
	if err := v.Write(name, []byte("same")); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour).Truncate(time.Second)
	if err := os.Chtimes(v.path(name), old, old); err != nil {
		t.Fatal(err)
	}
	if err := v.Write(name, []byte("same")); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(v.path(name)); err != nil || !fi.ModTime().Equal(old) {
		t.Error("it was written again")
	}
}

func TestBounds(t *testing.T) {
	v := Variables{Dir: t.TempDir()}
	for _, size := range []int{0, 3, maxBytes + 1} {
		if err := os.WriteFile(v.path(name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		if data, err := v.Read(name); err == nil {
			t.Errorf("%d bytes: %x", size, data)
		}
	}
	if err := os.WriteFile(v.path(name), []byte{7, 0, 0, 0, 1}, 0o600); err != nil {
		t.Fatal(err)
	}
	if yes, err := v.Flag(name); !yes || err != nil {
		t.Errorf("flag: %v, %v", yes, err)
	}
}

// The flags of FS_IOC_GETFLAGS are numbered as those of statx.
func TestImmutableFlag(t *testing.T) {
	const immutable = 0x10 // FS_IMMUTABLE_FL
	if unix.STATX_ATTR_IMMUTABLE != immutable {
		t.Errorf("%#x", unix.STATX_ATTR_IMMUTABLE)
	}
}
