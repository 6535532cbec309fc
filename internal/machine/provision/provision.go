// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package provision finds the machine's configuration at boot and replaces it
// when the API asks.
//
// It owns machine/config.yaml in the state (the document that was applied
// through the API) and machine/config.good.yaml (a copy of the newest document
// that could be used). At boot the first source that has a document decides.
// When that document is bad, nothing of it is used: the machine takes the last
// good one, else the next source, else the default, and says so on the board
// and in the log. It comes up in every case.
//
// While the machine runs, Store holds the one immutable configuration.
// Subsystems subscribe and get each new one; a slow subscriber misses those in
// between and never the newest. Applying is: parse → compare → store durably →
// publish. An error before publishing leaves everything as it was.
package provision

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/atomicfile"
	"wherry.example/wherry/internal/machine/status"
)

const (
	boardLine = "configuration"

	// StoredName is the document that was applied through the API, or installed with the machine.
	StoredName   = "config.yaml"
	lastGoodName = "config.good.yaml"
)

// Options are what provisioning needs of the machine.
type Options struct {
	Log   *slog.Logger
	Board *status.Board
	// Dir is where documents are kept: /state/machine.
	Dir string
	// Sources are asked in order after the document stored in Dir.
	Sources []Source
}

// Loaded is the configuration that the machine starts with.
type Loaded struct {
	Machine config.Machine
	// Source is the name of where it came from.
	Source string
	// Report is about the document that decided, which is not the one in use
	// when the report has errors.
	Report config.Report
	// Err says why the machine does not follow the document that decided, and nil when it does.
	Err error
}

// Load finds the configuration. It does not fail: see the package's comment.
func Load(ctx context.Context, o Options) Loaded {
	sources := append([]Source{Stored(filepath.Join(o.Dir, StoredName))}, o.Sources...)
	var loaded Loaded
	var bad []error
	for _, s := range sources {
		m, report, err := read(ctx, s)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			loaded.Machine, loaded.Source = m, s.Name
			if len(bad) == 0 {
				loaded.Report = report
			}
			break
		}
		if bad = append(bad, err); len(bad) > 1 {
			continue
		}
		loaded.Report = report
		if m, _, err := read(ctx, lastGood(o.Dir)); err == nil {
			loaded.Machine, loaded.Source = m, SourceLastGood
			break
		}
	}
	if loaded.Source == "" {
		loaded.Machine, loaded.Source = config.Default(), SourceDefault
	}
	loaded.Err = errors.Join(bad...)
	o.settle(loaded)
	return loaded
}

func lastGood(dir string) Source {
	s := Stored(filepath.Join(dir, lastGoodName))
	s.Name = SourceLastGood
	return s
}

// read returns a source's machine. The error holds every problem of a bad document.
func read(ctx context.Context, s Source) (config.Machine, config.Report, error) {
	doc, err := s.Read(ctx)
	if err != nil {
		return config.Machine{}, config.Report{}, fmt.Errorf("read the configuration from %s: %w", s.Name, err)
	}
	m, report := config.Parse(doc)
	if err := report.Err(); err != nil {
		return config.Machine{}, report, fmt.Errorf("the configuration from %s cannot be used:\n%w", s.Name, err)
	}
	return m, report, nil
}

// settle tells people what is in use and keeps a copy of what is good.
func (o Options) settle(l Loaded) {
	for _, p := range l.Report.Warnings() {
		o.Log.Warn("configuration", "source", l.Source, "problem", p.String())
	}
	if l.Err != nil {
		o.Log.Error("the machine does not follow its configuration", "uses", l.Source, "error", l.Err)
		o.Board.Set(boardLine, false, fmt.Sprintf("uses the %s configuration: %v", l.Source, l.Err))
		return
	}
	o.Log.Info("configuration loaded", "source", l.Source)
	o.Board.Set(boardLine, true, "from "+l.Source)
	if l.Source == SourceDefault {
		return
	}
	if err := keepGood(o.Dir, l.Machine); err != nil {
		o.Log.Warn("keep a copy of the configuration", "error", err)
	}
}

// keepGood writes the copy only when it changes: a boot need not write to the disk.
func keepGood(dir string, m config.Machine) error {
	doc, err := m.Marshal()
	if err != nil {
		return err
	}
	path := filepath.Join(dir, lastGoodName)
	if old, err := readBounded(path); err == nil && string(old) == string(doc) {
		return nil
	}
	return write(path, doc)
}

// write stores a document, which may hold passwords, for root alone.
func write(path string, doc []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("store the configuration: %w", err)
	}
	if err := atomicfile.Write(path, doc, 0o600); err != nil {
		return fmt.Errorf("store the configuration: %w", err)
	}
	return nil
}
