// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package module

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"wherry.example/wherry/internal/format/modindex"
)

// open makes a directory of modules that no kernel takes.
func open(t *testing.T, x *modindex.Index) *Loader {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "index"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := x.Encode(f); err != nil {
		t.Fatal(err)
	}
	l, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

var index = &modindex.Index{
	Modules: []modindex.Module{{Name: "base", File: "base.ko"}, {Name: "top", File: "top.ko", Depends: []string{"base"}, Aliases: []string{"fs-top"}}},
	Builtin: []string{"ext4"},
}

func TestLoad(t *testing.T) {
	l := open(t, index)
	if err := l.Load("ext4"); err != nil {
		t.Errorf("a built-in module: %v", err)
	}
	if err := l.Load("absent"); err == nil {
		t.Error("a module that is not there was loaded")
	}
	if err := l.Load("top"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a module without a file: %v", err)
	}
	for name, want := range map[string]bool{"ext4": true, "top": true, "absent": false} {
		if l.Known(name) != want {
			t.Errorf("Known(%s) is not %v", name, want)
		}
	}
	if got := l.Match("fs-top"); len(got) != 1 || got[0] != "top" {
		t.Errorf("fs-top is %q", got)
	}
}

// TestLoadOnce: many ask at once, the file is tried once, all get its result.
func TestLoadOnce(t *testing.T) {
	l := open(t, index)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := l.Load("top"); err == nil {
				t.Error("loaded nothing")
			}
		})
	}
	wg.Wait()
	if _, tried := l.results["top"]; tried || len(l.results) != 1 {
		t.Errorf("tried %v, want only base: top depends on it", l.results)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no index: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "index"), []byte("<html>"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil {
		t.Error("a damaged index was read")
	}
}
