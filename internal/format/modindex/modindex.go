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
	"bytes"
	"errors"
	"fmt"
	"io"
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

// maxIndex bounds an index: a distribution's whole set of modules makes 3 MB.
const maxIndex = 32 << 20

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

// Decode reads what Encode wrote. It keeps the text and points into it: each
// start of modprobe pays for this.
func Decode(r io.Reader) (*Index, error) {
	var text strings.Builder
	n, err := io.Copy(&text, io.LimitReader(r, maxIndex+1))
	if err != nil {
		return nil, fmt.Errorf("module index: %w", err)
	}
	if n > maxIndex {
		return nil, fmt.Errorf("module index: larger than %d bytes", maxIndex)
	}
	x := &Index{}
	number := 0
	for line := range strings.Lines(text.String()) {
		number++
		keyword, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if err := x.line(keyword, rest); err != nil {
			return nil, fmt.Errorf("module index line %d: %w", number, err)
		}
	}
	x.build()
	return x, nil
}

func (x *Index) line(keyword, rest string) error {
	switch {
	case rest == "":
		return fmt.Errorf("%q says nothing", keyword)
	case keyword == "builtin":
		x.Builtin = append(x.Builtin, rest)
		return nil
	case keyword == "module":
		name, file, ok := strings.Cut(rest, "\t")
		if !ok || name == "" || strings.Contains(file, "\t") {
			return errors.New("a module has a name and a file")
		}
		x.Modules = append(x.Modules, Module{Name: name, File: file})
		return nil
	case len(x.Modules) == 0:
		return fmt.Errorf("%q before the first module", keyword)
	}
	m := &x.Modules[len(x.Modules)-1]
	switch keyword {
	case "dep":
		m.Depends = strings.Split(rest, "\t")
	case "soft":
		m.Soft = strings.Split(rest, "\t")
	case "alias":
		m.Aliases = append(m.Aliases, rest)
	default:
		return fmt.Errorf("unknown keyword %q", keyword)
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
			if glob(p, alias) {
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
