// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"wherry.example/wherry/internal/format/modindex"
)

// Tree is a directory of modules, read as they are asked for.
type Tree struct {
	files   map[string]string // canonical name → path
	builtin []string
	read    map[string]*loaded
}

type loaded struct {
	data []byte
	info modinfo
}

// Selection is a set of modules, closed under their dependencies.
type Selection struct {
	Index *modindex.Index
	Files map[string][]byte // by the file names in the index
	// Order lists the files as the groups asked for them: what is loaded
	// together is near each other.
	Order []string
	// Costs tells how many bytes of modules each group brought that no group
	// before it had.
	Costs []Cost
	// Absent are the patterns that matched nothing in this kernel.
	Absent []string
}

// Cost is the size of one group of the table.
type Cost struct {
	Group   string
	Modules int
	Bytes   int
}

// OpenTree looks which modules there are below dir.
func OpenTree(dir string) (*Tree, error) {
	t := &Tree{files: map[string]string{}, read: map[string]*loaded{}}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && isModule(d.Name()) {
			t.files[modindex.Canonical(strings.TrimSuffix(plainName(p), ".ko"))] = p
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for kernel modules: %w", err)
	}
	if len(t.files) == 0 {
		return nil, fmt.Errorf("look for kernel modules: there are none in %s", dir)
	}
	list, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("look which modules are built in: %w", err)
	}
	for _, line := range strings.Fields(string(list)) {
		t.builtin = append(t.builtin, modindex.Canonical(strings.TrimSuffix(path.Base(line), ".ko")))
	}
	slices.Sort(t.builtin)
	return t, nil
}

// Select takes the modules of the groups and everything they depend on. A
// required pattern that neither a module nor the kernel itself satisfies is an
// error.
func (t *Tree) Select(groups []Group) (*Selection, error) {
	s := &Selection{Index: &modindex.Index{Builtin: t.builtin}, Files: map[string][]byte{}}
	taken := map[string]bool{}
	for _, g := range groups {
		before, size := len(taken), 0
		for _, pattern := range g.Modules {
			names := t.match(pattern)
			if len(names) == 0 && !slices.ContainsFunc(t.builtin, func(b string) bool { return globs(pattern, b) }) {
				if g.Required {
					return nil, fmt.Errorf("this kernel has no module %s, which Wherry needs (%s)", pattern, g.Name)
				}
				s.Absent = append(s.Absent, pattern)
			}
			for _, n := range names {
				added, err := t.take(n, s, taken)
				if err != nil {
					return nil, err
				}
				size += added
			}
		}
		s.Costs = append(s.Costs, Cost{Group: g.Name, Modules: len(taken) - before, Bytes: size})
	}
	slices.SortFunc(s.Index.Modules, func(a, b modindex.Module) int { return strings.Compare(a.Name, b.Name) })
	return s, nil
}

func globs(pattern, name string) bool {
	ok, _ := path.Match(pattern, name)
	return ok
}

func (t *Tree) match(pattern string) []string {
	var out []string
	for name := range t.files {
		if globs(pattern, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// take adds a module and what it depends on, and returns the bytes added.
func (t *Tree) take(name string, s *Selection, taken map[string]bool) (int, error) {
	if taken[name] {
		return 0, nil
	}
	taken[name] = true
	m, err := t.load(name)
	if err != nil {
		return 0, err
	}
	size := len(m.data)
	entry := modindex.Module{Name: name, File: name + ".ko", Depends: m.info.depends, Aliases: m.info.aliases}
	for _, d := range m.info.soft {
		if t.files[d] != "" {
			entry.Soft = append(entry.Soft, d)
		}
	}
	for _, d := range slices.Concat(entry.Depends, entry.Soft) {
		if t.files[d] == "" {
			if slices.Contains(t.builtin, d) {
				continue
			}
			return 0, fmt.Errorf("kernel module %s needs %s, which is nowhere", name, d)
		}
		added, err := t.take(d, s, taken)
		if err != nil {
			return 0, err
		}
		size += added
	}
	s.Index.Modules = append(s.Index.Modules, entry)
	s.Files[entry.File] = m.data
	s.Order = append(s.Order, entry.File)
	return size, nil
}

func (t *Tree) load(name string) (*loaded, error) {
	if m := t.read[name]; m != nil {
		return m, nil
	}
	file := t.files[name]
	if file == "" {
		return nil, errors.New("no kernel module " + name)
	}
	packed, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	m := &loaded{}
	if m.data, err = decompress(file, packed); err == nil {
		m.info, err = readModinfo(m.data)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	t.read[name] = m
	return m, nil
}
