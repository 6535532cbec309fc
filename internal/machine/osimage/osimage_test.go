// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package osimage

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/atomicfile"
)

func TestDecide(t *testing.T) {
	small := situation{Persistent: true, Bytes: 13 << 20, Memory: 480 << 20, Free: 1 << 30}
	with := func(change func(*situation)) situation {
		s := small
		change(&s)
		return s
	}
	large := with(func(s *situation) { s.Memory = 1 << 30 })
	for name, c := range map[string]struct {
		where         string
		s             situation
		move, trouble bool
		says          string
	}{
		"small":                {"", small, true, false, inMemory},
		"small, said":          {config.OSImageAuto, small, true, false, inMemory},
		"large":                {"", large, false, false, inMemory},
		"large, wanted":        {config.OSImageDisk, large, true, false, inMemory},
		"small, not wanted":    {config.OSImageMemory, small, false, false, "as configured"},
		"no disk":              {"", with(func(s *situation) { s.Persistent = false }), false, false, "no state disk"},
		"no disk, wanted":      {config.OSImageDisk, with(func(s *situation) { s.Persistent = false }), false, true, "no state disk"},
		"full disk":            {"", with(func(s *situation) { s.Free = 70 << 20 }), false, false, "too little space"},
		"full disk, wanted":    {config.OSImageDisk, with(func(s *situation) { s.Free = 70 << 20 }), false, true, "too little space"},
		"odd size":             {"", with(func(s *situation) { s.Bytes = 5000 }), false, true, "whole blocks"},
		"empty":                {"", with(func(s *situation) { s.Bytes = 0 }), false, true, "whole blocks"},
		"moved":                {"", situation{Moved: true}, false, false, onDisk},
		"moved, not wanted":    {config.OSImageMemory, situation{Moved: true}, false, false, "next start"},
		"moved, large machine": {"", situation{Moved: true, Memory: 8 << 30}, false, false, onDisk},
	} {
		p := decide(c.where, c.s)
		if p.Move != c.move || p.Trouble != c.trouble || !strings.Contains(p.Message, c.says) {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// device makes a file that stands for the root's device.
func device(t *testing.T, seed byte) (path string, content []byte) {
	t.Helper()
	content = make([]byte, 3*chunkBytes+8192)
	rand.NewChaCha8([32]byte{seed}).Read(content)
	path = filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		t.Skip("temporary files are on a file system without O_DIRECT: set TMPDIR to another")
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	return path, content
}

func read(t *testing.T, path string, bytes int) image {
	t.Helper()
	img, err := readImage(t.Context(), path, int64(bytes))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestStore(t *testing.T) {
	state := t.TempDir()
	if err := os.Mkdir(filepath.Join(state, "machine"), 0o700); err != nil {
		t.Fatal(err)
	}
	m := New(Options{State: state})
	path, content := device(t, 1)
	img := read(t, path, len(content))
	file := filepath.Join(m.dir(), img.name)
	stored := func(fresh bool, want ...[]byte) {
		t.Helper()
		if got, err := m.store(t.Context(), img, file); err != nil || got != fresh {
			t.Fatalf("fresh %v, %v", got, err)
		}
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, bytes.Join(want, nil)) {
			t.Errorf("the file has %d bytes that are not the image's: %v", len(got), err)
		}
		if entries, err := os.ReadDir(m.dir()); err != nil || len(entries) != 1 {
			t.Errorf("there are %v: %v", entries, err)
		}
	}
	stored(true, content)
	stored(false, content)
	if err := writeTree(img, file); err != nil {
		t.Fatal(err)
	}
	stored(false, content, img.tree.Hashes)

	// Leftovers, another release's image, and a file that is too short.
	for _, name := range []string{atomicfile.TempPrefix + img.name, "1-00000000.squashfs"} {
		if err := os.WriteFile(filepath.Join(m.dir(), name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(file, 4096); err != nil {
		t.Fatal(err)
	}
	stored(true, content)

	// A tree that is shorter than the one before it leaves nothing of that.
	if err := os.WriteFile(file, append(bytes.Clone(content), make([]byte, 1<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeTree(img, file); err != nil {
		t.Fatal(err)
	}
	stored(false, content, img.tree.Hashes)
}

func TestCopyThatEndsEarlyLeavesNothing(t *testing.T) {
	state := t.TempDir()
	if err := os.Mkdir(filepath.Join(state, "machine"), 0o700); err != nil {
		t.Fatal(err)
	}
	m := New(Options{State: state})
	path, content := device(t, 1)
	img := read(t, path, len(content))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.store(ctx, img, filepath.Join(m.dir(), img.name)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if entries, err := os.ReadDir(m.dir()); err != nil || len(entries) != 0 {
		t.Errorf("there are %v: %v", entries, err)
	}
}

// The salt is another one each time, the name is the content's.
func TestNames(t *testing.T) {
	path, content := device(t, 1)
	one, again := read(t, path, len(content)), read(t, path, len(content))
	if one.name != again.name || one.tree.Root == again.tree.Root || bytes.Equal(one.tree.Salt, again.tree.Salt) {
		t.Errorf("%s %x and %s %x", one.name, one.tree.Root, again.name, again.tree.Root)
	}
	other, content := device(t, 2)
	if read(t, other, len(content)).name == one.name {
		t.Error("two images have one name")
	}
}
