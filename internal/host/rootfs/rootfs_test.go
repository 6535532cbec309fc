// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func paths(t *Tree) string {
	var out []string
	for _, e := range t.Entries() {
		out = append(out, e.Mode.String()+" "+e.Path)
	}
	return strings.Join(out, "\n")
}

func TestAddMakesParents(t *testing.T) {
	var tree Tree
	must(t, tree.File("a/b/c", 0o600, []byte("x")), tree.Symlink("l", "a"), tree.Dir("tmp", 0o700))
	want := "drwxr-xr-x a\ndrwxr-xr-x a/b\n-rw------- a/b/c\nLrwxrwxrwx l\ndrwx------ tmp"
	if diff := cmp.Diff(want, paths(&tree)); diff != "" {
		t.Error(diff)
	}
	if tree.Size() != 1 {
		t.Errorf("size is %d", tree.Size())
	}
}

func TestRefusesCollisions(t *testing.T) {
	add := map[string]func(*Tree) error{
		"file over file":        func(tree *Tree) error { return tree.File("dir/file", 0o644, nil) },
		"link over file":        func(tree *Tree) error { return tree.Symlink("dir/file", "x") },
		"file over directory":   func(tree *Tree) error { return tree.File("dir", 0o644, nil) },
		"directory over file":   func(tree *Tree) error { return tree.Dir("dir/file", 0o755) },
		"other permissions":     func(tree *Tree) error { return tree.Dir("dir", 0o700) },
		"file below a file":     func(tree *Tree) error { return tree.File("dir/file/x", 0o644, nil) },
		"absolute":              func(tree *Tree) error { return tree.File("/x", 0o644, nil) },
		"upwards":               func(tree *Tree) error { return tree.File("../x", 0o644, nil) },
		"not clean":             func(tree *Tree) error { return tree.File("a//b", 0o644, nil) },
		"the root":              func(tree *Tree) error { return tree.Dir(".", 0o755) },
		"device over directory": func(tree *Tree) error { return tree.CharDevice("dir", 0o600, 5, 1) },
		"merge": func(tree *Tree) error {
			var other Tree
			return errors.Join(other.File("dir/file", 0o644, nil), tree.Merge(&other))
		},
	}
	for name, f := range add {
		var tree Tree
		must(t, tree.File("dir/file", 0o644, []byte("old")))
		before := paths(&tree)
		if err := f(&tree); err == nil {
			t.Errorf("%s: no error", name)
		}
		if diff := cmp.Diff(before, paths(&tree)); diff != "" {
			t.Errorf("%s changed the tree: %s", name, diff)
		}
	}
}

func TestMerge(t *testing.T) {
	var a, b Tree
	must(t, a.File("dir/a", 0o644, nil), b.File("dir/b", 0o644, nil), a.Merge(&b))
	if want := "drwxr-xr-x dir\n-rw-r--r-- dir/a\n-rw-r--r-- dir/b"; paths(&a) != want {
		t.Error(paths(&a))
	}
}

func TestTarOrder(t *testing.T) {
	var tree Tree
	must(t, tree.File("a", 0o644, []byte("A")), tree.File("d/b", 0o644, nil), tree.File("d/c", 0o644, nil), tree.CharDevice("console", 0o600, 5, 1))
	tree.Place("d/c", "a")
	var b bytes.Buffer
	must(t, tree.WriteTar(&b))
	var names []string
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if !h.ModTime.Equal(Epoch) || h.Uid != 0 || h.Gid != 0 {
			t.Errorf("%s: time %v, owner %d:%d", h.Name, h.ModTime, h.Uid, h.Gid)
		}
		names = append(names, h.Name)
	}
	if got, want := strings.Join(names, " "), "d/ d/c a console d/b"; got != want {
		t.Errorf("order is %q, want %q", got, want)
	}
	tree.Place("nowhere")
	if err := tree.WriteTar(io.Discard); err == nil {
		t.Error("a place for a file that is not there was taken")
	}
}

func TestUnixMode(t *testing.T) {
	var tree Tree
	must(t, tree.File("f", 0o640, nil), tree.Dir("tmp", 0o777), tree.Symlink("l", "f"), tree.CharDevice("c", 0o600, 1, 3))
	want := map[string]uint32{"f": 0o100640, "tmp": 0o040777, "l": 0o120777, "c": 0o020600}
	for _, e := range tree.Entries() {
		if got := UnixMode(e.Mode); got != want[e.Path] {
			t.Errorf("%s: %o, want %o", e.Path, got, want[e.Path])
		}
	}
}
