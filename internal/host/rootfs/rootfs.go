// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package rootfs holds a file tree in memory while an image is put together.
//
// A tree knows names, permission bits and contents; owner is always root and
// the time always Epoch, so that equal inputs give equal bytes. Two parts that
// want the same path are a mistake of the recipe: every addition refuses to
// replace what is there, except that a directory may be named again with the
// same permissions. Missing parents are made with mode 0755. Paths are relative
// to the root, clean, with slashes. A Tree is not safe for concurrent use.
package rootfs

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// Epoch is the time of every file in every image, the day Wherry began.
var Epoch = time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)

// Entry is one file, directory, symbolic link or device of a tree.
type Entry struct {
	Path   string
	Mode   fs.FileMode // type and permissions
	Data   []byte      // of a regular file
	Target string      // of a symbolic link
	Major  uint32      // of a device
	Minor  uint32
}

// Tree is a set of entries. The zero Tree is empty and ready to use.
type Tree struct {
	entries map[string]Entry
	placed  []string
}

// File adds a regular file.
func (t *Tree) File(name string, perm fs.FileMode, data []byte) error {
	return t.add(Entry{Path: name, Mode: perm.Perm(), Data: data})
}

// Dir adds an empty directory.
func (t *Tree) Dir(name string, perm fs.FileMode) error {
	return t.add(Entry{Path: name, Mode: fs.ModeDir | perm&(fs.ModePerm|fs.ModeSticky)})
}

// Symlink adds a symbolic link.
func (t *Tree) Symlink(name, target string) error {
	return t.add(Entry{Path: name, Mode: fs.ModeSymlink | 0o777, Target: target})
}

// CharDevice adds a character device.
func (t *Tree) CharDevice(name string, perm fs.FileMode, major, minor uint32) error {
	return t.add(Entry{Path: name, Mode: fs.ModeDevice | fs.ModeCharDevice | perm.Perm(), Major: major, Minor: minor})
}

// Merge adds everything that other holds.
func (t *Tree) Merge(other *Tree) error {
	for _, e := range other.Entries() {
		if err := t.add(e); err != nil {
			return err
		}
	}
	return nil
}

// Place says in which order the contents of files lie in a packed image: those
// named here one after another, before all others. Small files share blocks of
// up to a megabyte, so what is read together should lie together.
func (t *Tree) Place(names ...string) { t.placed = append(t.placed, names...) }

func (t *Tree) add(e Entry) error {
	if !fs.ValidPath(e.Path) || e.Path == "." {
		return fmt.Errorf("add %q to the tree: not a clean relative path", e.Path)
	}
	if err := t.addParents(e.Path); err != nil {
		return err
	}
	old, there := t.entries[e.Path]
	if there && !(old.Mode.IsDir() && old.Mode == e.Mode) {
		return fmt.Errorf("add %s to the tree: it is there already", e.Path)
	}
	t.entries[e.Path] = e
	return nil
}

func (t *Tree) addParents(name string) error {
	if t.entries == nil {
		t.entries = map[string]Entry{}
	}
	dir := path.Dir(name)
	if dir == "." {
		return nil
	}
	if e, there := t.entries[dir]; there {
		if !e.Mode.IsDir() {
			return fmt.Errorf("add %s to the tree: %s is not a directory", name, dir)
		}
		return nil
	}
	return t.add(Entry{Path: dir, Mode: fs.ModeDir | 0o755})
}

// Entries lists the tree by path, parents before what they hold.
func (t *Tree) Entries() []Entry {
	out := make([]Entry, 0, len(t.entries))
	for _, e := range t.entries {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// Size is the sum of the sizes of all files.
func (t *Tree) Size() (n int64) {
	for _, e := range t.entries {
		n += int64(len(e.Data))
	}
	return n
}

// inPlace lists directories first, then the placed entries, then the rest.
func (t *Tree) inPlace() ([]Entry, error) {
	rank := make(map[string]int, len(t.placed))
	for i, name := range t.placed {
		if _, there := t.entries[name]; !there {
			return nil, fmt.Errorf("place %s: it is not in the tree", name)
		}
		rank[name] = i - len(t.placed)
	}
	entries := t.Entries()
	slices.SortStableFunc(entries, func(a, b Entry) int {
		if a.Mode.IsDir() != b.Mode.IsDir() {
			if a.Mode.IsDir() {
				return -1
			}
			return 1
		}
		return rank[a.Path] - rank[b.Path]
	})
	return entries, nil
}

// WriteTar writes the tree as a tar file, contents in the order of Place.
func (t *Tree) WriteTar(w io.Writer) error {
	entries, err := t.inPlace()
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	for _, e := range entries {
		if err := writeTarEntry(tw, e); err != nil {
			return fmt.Errorf("write %s: %w", e.Path, err)
		}
	}
	return tw.Close()
}

func writeTarEntry(tw *tar.Writer, e Entry) error {
	h := &tar.Header{Name: e.Path, ModTime: Epoch, Format: tar.FormatPAX, Size: int64(len(e.Data)), Linkname: e.Target}
	h.Mode = int64(UnixMode(e.Mode) & 0o7777)
	switch {
	case e.Mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, e.Path+"/"
	case e.Mode&fs.ModeSymlink != 0:
		h.Typeflag = tar.TypeSymlink
	case e.Mode&fs.ModeCharDevice != 0:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(e.Major), int64(e.Minor)
	default:
		h.Typeflag = tar.TypeReg
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := tw.Write(e.Data)
	return err
}

// UnixMode is the mode as the kernel writes it: type bits and permissions.
func UnixMode(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	if m&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	switch {
	case m.IsDir():
		return bits | 0o040000
	case m&fs.ModeSymlink != 0:
		return bits | 0o120000
	case m&fs.ModeCharDevice != 0:
		return bits | 0o020000
	}
	return bits | 0o100000
}
