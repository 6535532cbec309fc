// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package modindex is the list of kernel modules in an image: what depmod's
// modules.dep, modules.alias and modules.softdep hold, in one small text file
// that the image build writes from the modules' .modinfo sections and the
// machine reads at boot.
//
// Each line is a keyword and its fields, separated by tabs:
//
//	module	NAME	FILE            begins a module; NAME with underscores, FILE relative to the index
//	dep	NAME...                 modules that must be loaded before it, in order
//	soft	NAME...                 modules to try first (softdep pre)
//	alias	PATTERN                 a modalias pattern of it (shell glob)
//	builtin	NAME                    a module that is part of the kernel image
package modindex

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"path"
	"strings"
)

// Module is one loadable module.
type Module struct {
	Name    string
	File    string
	Depends []string
	Soft    []string
	Aliases []string
}

// Index is the whole list. Modules and Builtin are in the order written.
type Index struct {
	Modules []Module
	Builtin []string

	byName  map[string]*Module
	builtin map[string]bool
}

// maxLine bounds a line of an index.
const maxLine = 1 << 20

// Canonical returns a module's name with underscores, as the kernel prints it.
func Canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// Encode writes the index.
func (x *Index) Encode(w io.Writer) error {
	var b bytes.Buffer
	for _, m := range x.Modules {
		fmt.Fprintf(&b, "module\t%s\t%s\n", m.Name, m.File)
		if len(m.Depends) > 0 {
			fmt.Fprintf(&b, "dep\t%s\n", strings.Join(m.Depends, "\t"))
		}
		if len(m.Soft) > 0 {
			fmt.Fprintf(&b, "soft\t%s\n", strings.Join(m.Soft, "\t"))
		}
		for _, a := range m.Aliases {
			fmt.Fprintf(&b, "alias\t%s\n", a)
		}
	}
	for _, n := range x.Builtin {
		fmt.Fprintf(&b, "builtin\t%s\n", n)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// Decode reads what Encode wrote.
func Decode(r io.Reader) (*Index, error) {
	x := &Index{}
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	for n := 1; s.Scan(); n++ {
		if err := x.line(strings.Split(s.Text(), "\t")); err != nil {
			return nil, fmt.Errorf("module index line %d: %w", n, err)
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("module index: %w", err)
	}
	x.build()
	return x, nil
}

func (x *Index) line(f []string) error {
	if f[0] == "builtin" && len(f) == 2 {
		x.Builtin = append(x.Builtin, f[1])
		return nil
	}
	if f[0] == "module" && len(f) == 3 {
		x.Modules = append(x.Modules, Module{Name: f[1], File: f[2]})
		return nil
	}
	if len(x.Modules) == 0 || len(f) < 2 {
		return fmt.Errorf("unexpected %q", f[0])
	}
	m := &x.Modules[len(x.Modules)-1]
	switch f[0] {
	case "dep":
		m.Depends = f[1:]
	case "soft":
		m.Soft = f[1:]
	case "alias":
		m.Aliases = append(m.Aliases, f[1])
	default:
		return fmt.Errorf("unknown keyword %q", f[0])
	}
	return nil
}

func (x *Index) build() {
	x.byName = make(map[string]*Module, len(x.Modules))
	for i := range x.Modules {
		x.byName[x.Modules[i].Name] = &x.Modules[i]
	}
	x.builtin = make(map[string]bool, len(x.Builtin))
	for _, n := range x.Builtin {
		x.builtin[n] = true
	}
}

// Lookup returns the module of a name, or nil.
func (x *Index) Lookup(name string) *Module {
	if x.byName == nil {
		x.build()
	}
	return x.byName[Canonical(name)]
}

// IsBuiltin says whether the kernel image holds the module.
func (x *Index) IsBuiltin(name string) bool {
	if x.byName == nil {
		x.build()
	}
	return x.builtin[Canonical(name)]
}

// Match returns the names of the modules that a modalias (from a uevent) or a
// plain name asks for.
func (x *Index) Match(alias string) []string {
	if x.Lookup(alias) != nil {
		return []string{Canonical(alias)}
	}
	var out []string
	for i := range x.Modules {
		for _, p := range x.Modules[i].Aliases {
			if ok, _ := path.Match(p, alias); ok {
				out = append(out, x.Modules[i].Name)
				break
			}
		}
	}
	return out
}

// Order returns the modules to load for the named ones, dependencies first,
// each once. Names that are built in are left out; unknown ones are an error.
func (x *Index) Order(names ...string) ([]*Module, error) {
	var out []*Module
	seen := map[string]bool{}
	var visit func(name string, soft bool) error
	visit = func(name string, soft bool) error {
		name = Canonical(name)
		if seen[name] || x.IsBuiltin(name) {
			return nil
		}
		seen[name] = true
		m := x.Lookup(name)
		if m == nil {
			if soft {
				return nil
			}
			return fmt.Errorf("kernel module %s is not in this image", name)
		}
		for _, d := range m.Soft {
			if err := visit(d, true); err != nil {
				return err
			}
		}
		for _, d := range m.Depends {
			if err := visit(d, false); err != nil {
				return err
			}
		}
		out = append(out, m)
		return nil
	}
	for _, n := range names {
		if err := visit(n, false); err != nil {
			return nil, err
		}
	}
	return out, nil
}
