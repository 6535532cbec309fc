// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package component

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"
)

// Recipe tells how a component is built: components/NAME/component.yaml.
type Recipe struct {
	Name     string `yaml:"name"`
	Package  string `yaml:"package"` // import path of its main package
	Binary   string `yaml:"binary"`  // file name in the image
	Settings `yaml:",inline"`

	dir string
	// sum covers go.mod, go.sum and the recipe itself.
	sources [][]byte
}

// Settings is how `go build` is called.
type Settings struct {
	CGO     bool     `yaml:"cgo"`
	Tags    []string `yaml:"tags"`
	LDFlags []string `yaml:"ldflags"`
	GCFlags []string `yaml:"gcflags"` // each "packages=flags"; the last that matches a package counts
	Linked  []string `yaml:"linked"`  // Debian packages linked in statically
	// NoRuntime: the kernel enters the program at main.entry, and it calls nothing but package main.
	NoRuntime bool `yaml:"noRuntime"`
}

// programFile tells how a program of our own is built; most need none.
const programFile = "build.yaml"

func loadSettings(dir string) (s Settings, err error) {
	b, err := os.ReadFile(filepath.Join(dir, programFile))
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	return s, d.Decode(&s)
}

// Load reads the recipe and the module graph of the component in dir.
func Load(dir string) (*Recipe, error) {
	r := &Recipe{dir: dir}
	for _, name := range []string{"component.yaml", "go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("read component: %w", err)
		}
		r.sources = append(r.sources, b)
	}
	d := yaml.NewDecoder(bytes.NewReader(r.sources[0]))
	d.KnownFields(true)
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("read component %s: %w", dir, err)
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("read component %s: %w", dir, err)
	}
	return r, nil
}

func (r *Recipe) check() error {
	switch {
	case r.Name != filepath.Base(r.dir):
		return fmt.Errorf("name is %q, but the folder is %q", r.Name, filepath.Base(r.dir))
	case r.Package == "":
		return errors.New("package is missing")
	case r.Binary == "" || filepath.Base(r.Binary) != r.Binary:
		return fmt.Errorf("binary %q is not a file name", r.Binary)
	}
	return nil
}
