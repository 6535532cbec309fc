// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package module loads kernel modules by name or alias, with what they need,
// from an image's index (package modindex).
package module

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/format/kernelmodule"
	"wherry.example/wherry/internal/format/modindex"
)

// Loader loads the modules of one directory. It is safe for concurrent use.
type Loader struct {
	dir   string
	index *modindex.Index

	mu      sync.Mutex
	results map[string]*result
}

// result is how loading one module went, once done is closed.
type result struct {
	done chan struct{}
	err  error
}

// Open reads dir/index.
func Open(dir string) (*Loader, error) {
	f, err := os.Open(filepath.Join(dir, "index"))
	if err != nil {
		return nil, fmt.Errorf("read the module index: %w", err)
	}
	defer f.Close()
	x, err := modindex.Decode(f)
	if err != nil {
		return nil, err
	}
	return &Loader{dir: dir, index: x, results: map[string]*result{}}, nil
}

// Match returns the names of the modules that a modalias asks for.
func (l *Loader) Match(alias string) []string { return l.index.Match(alias) }

// Known says whether the image has the module, as a file or in the kernel.
func (l *Loader) Known(name string) bool {
	return l.index.IsBuiltin(name) || l.index.Lookup(name) != nil
}

// Load loads the named modules and what they depend on. A module that is
// loaded already is not touched; one that failed before fails again without
// being tried. All are tried; the errors are joined.
func (l *Loader) Load(names ...string) error {
	var errs []error
	for _, name := range names {
		order, err := l.index.Order(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, l.loadAll(order))
	}
	return errors.Join(errs...)
}

// loadAll stops at the first failure: what follows depends on it. Each module
// is loaded by whoever claims it first, to the end; the others wait for that,
// so that modules that have nothing to do with each other load side by side.
func (l *Loader) loadAll(order []*modindex.Module) error {
	for _, m := range order {
		r, mine := l.claim(m.Name)
		if mine {
			r.err = load(m.Name, filepath.Join(l.dir, m.File))
			close(r.done)
		}
		<-r.done
		if r.err != nil {
			return fmt.Errorf("load kernel module %s: %w", m.Name, r.err)
		}
	}
	return nil
}

func (l *Loader) claim(name string) (r *result, mine bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, ok := l.results[name]
	if !ok {
		r = &result{done: make(chan struct{})}
		l.results[name] = r
	}
	return r, !ok
}

// load gives a module to the kernel, trimmed where the kernel takes it so. It
// asks first whether the kernel has it: finding that out by loading costs 25
// million instructions.
func load(name, path string) error {
	if state, err := os.ReadFile("/sys/module/" + name + "/initstate"); err == nil && string(state) == "live\n" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = loadTrimmed(f)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EKEYREJECTED) { // lockdown wants the signature
		err = unix.FinitModule(int(f.Fd()), "", 0)
	}
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// loadTrimmed maps the file privately: pages that are not changed are not copied.
func loadTrimmed(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	image, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer unix.Munmap(image)
	return unix.InitModule(kernelmodule.Trim(image), "")
}
