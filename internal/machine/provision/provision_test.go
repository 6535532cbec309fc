// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/machine/status"
)

const (
	good  = "version: v1\nname: good\n"
	other = "version: v1\nname: other\n"
	bad   = "version: v1\nname: bad\nnonsense: 1\nmodules: [../x]\n"
)

func text(name, doc string) Source {
	return Source{Name: name, Read: func(context.Context) ([]byte, error) {
		if doc == "" {
			return nil, fs.ErrNotExist
		}
		return []byte(doc), nil
	}}
}

func TestLoad(t *testing.T) {
	broken := Source{Name: SourceFwCfg, Read: func(context.Context) ([]byte, error) { return nil, errors.New("input/output error") }}
	for _, tc := range []struct {
		name                 string
		stored, good         string
		source               Source
		wantName, wantSource string
		wantErr              string // on the board
	}{
		{"nothing", "", "", text(SourceFwCfg, ""), "", SourceDefault, ""},
		{"fw_cfg", "", "", text(SourceFwCfg, good), "good", SourceFwCfg, ""},
		{"the API's wins", other, "", text(SourceFwCfg, good), "other", SourceAPI, ""},
		{"bad, nothing else", "", "", text(SourceFwCfg, bad), "", SourceDefault, `unknown field "nonsense"`},
		{"bad, last good", "", other, text(SourceFwCfg, bad), "other", SourceLastGood, "modules[0]"},
		{"stored bad, last good", bad, other, text(SourceFwCfg, good), "other", SourceLastGood, "from api cannot be used"},
		{"stored bad, next source", bad, "", text(SourceFwCfg, good), "good", SourceFwCfg, "from api cannot be used"},
		{"everything bad", bad, bad, text(SourceFwCfg, bad), "", SourceDefault, "from fw_cfg cannot be used"},
		{"unreadable", "", "", broken, "", SourceDefault, "input/output error"},
		{"too long", "", "", text(SourceFwCfg, strings.Repeat("#", config.MaxBytes+1)), "", SourceDefault, "more than 1048576"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := options(t, tc.source)
			for name, doc := range map[string]string{StoredName: tc.stored, lastGoodName: tc.good} {
				if doc != "" {
					save(t, filepath.Join(o.Dir, name), doc)
				}
			}
			l := Load(t.Context(), o)
			if l.Machine.Name != tc.wantName || l.Source != tc.wantSource {
				t.Errorf("machine %q from %s, want %q from %s", l.Machine.Name, l.Source, tc.wantName, tc.wantSource)
			}
			line := o.Board.List()[0]
			if line.Ready != (tc.wantErr == "") || !strings.Contains(line.Message, tc.wantErr) || (l.Err == nil) != line.Ready {
				t.Errorf("board: %+v, error %v, want %q", line, l.Err, tc.wantErr)
			}
		})
	}
}

// TestLastGood boots with a good document, then with a bad one.
func TestLastGood(t *testing.T) {
	o := options(t, text(SourceFwCfg, good))
	Load(t.Context(), o)
	o.Sources = []Source{text(SourceFwCfg, bad)}
	if l := Load(t.Context(), o); l.Machine.Name != "good" || l.Err == nil {
		t.Errorf("machine %q, error %v", l.Machine.Name, l.Err)
	}
}

func TestFwCfg(t *testing.T) {
	root := t.TempDir()
	loads := 0
	appear := func(names ...string) error {
		loads++
		save(t, filepath.Join(root, fwCfgItem), good)
		return nil
	}
	source := fwCfg(root, appear)
	if _, err := source.Read(t.Context()); !errors.Is(err, fs.ErrNotExist) || loads > 0 {
		t.Errorf("without the device: %v, %d loads", err, loads)
	}
	save(t, filepath.Join(root, fwCfgDevice, "status"), "11")
	for range 2 {
		if doc, err := source.Read(t.Context()); err != nil || string(doc) != good {
			t.Errorf("read %q: %v", doc, err)
		}
	}
	if loads != 1 {
		t.Errorf("the module was loaded %d times", loads)
	}
	save(t, filepath.Join(root, fwCfgItem), strings.Repeat("x", 5<<20))
	if doc, err := source.Read(t.Context()); err != nil || len(doc) != config.MaxBytes+1 {
		t.Errorf("read %d bytes of 5 MiB: %v", len(doc), err)
	}
}

func TestApply(t *testing.T) {
	o := options(t, text(SourceFwCfg, good))
	s := NewStore(o, Load(t.Context(), o))
	machines, cancel := s.Subscribe()
	defer cancel()
	if m := <-machines; m.Name != "good" {
		t.Fatalf("first: %q", m.Name)
	}

	a, err := s.Apply([]byte(bad), false)
	if err != nil || a.Report.OK() || len(a.Report.Errors()) != 2 {
		t.Errorf("bad document: %v, %s", err, a.Report)
	}
	a, err = s.Apply([]byte(other), true)
	if err != nil || len(a.Changes) != 1 || a.Changes[0].After != "other" {
		t.Errorf("dry run: %v, %v", err, a)
	}
	if m, source := s.Current(); m.Name != "good" || source != SourceFwCfg || len(machines) > 0 {
		t.Errorf("a refused document or a dry run changed the machine: %q from %s", m.Name, source)
	}
	if _, err := os.Stat(filepath.Join(o.Dir, StoredName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a dry run wrote: %v", err)
	}

	for _, doc := range []string{"version: v1\nname: between\n", other} {
		if _, err := s.Apply([]byte(doc), false); err != nil {
			t.Fatal(err)
		}
	}
	if m := <-machines; m.Name != "other" {
		t.Errorf("a slow subscriber got %q, not the newest", m.Name)
	}
	if l := Load(t.Context(), o); l.Machine.Name != "other" || l.Source != SourceAPI {
		t.Errorf("next boot: %q from %s", l.Machine.Name, l.Source)
	}
	if info, err := os.Stat(filepath.Join(o.Dir, StoredName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("stored document: %v %v", info.Mode(), err)
	}
}

// TestApplyShown applies what Document showed: passwords stay.
func TestApplyShown(t *testing.T) {
	o := options(t, text(SourceFwCfg, "version: v1\nregistries: [{host: r.example, username: u, password: s3cret}]\n"))
	s := NewStore(o, Load(t.Context(), o))
	doc, _, err := s.Document()
	if err != nil || strings.Contains(string(doc), "s3cret") {
		t.Fatalf("shown: %s, %v", doc, err)
	}
	a, err := s.Apply(doc, false)
	if err != nil || !a.Report.OK() || len(a.Changes) > 0 {
		t.Errorf("apply: %v %s %v", err, a.Report, a.Changes)
	}
	if m, _ := s.Current(); m.Registries[0].Password != "s3cret" {
		t.Errorf("password is now %q", m.Registries[0].Password)
	}
	if a, _ := s.Apply([]byte(strings.Replace(string(doc), "r.example", "s.example", 1)), false); a.Report.OK() {
		t.Error("a hidden password was accepted for another registry")
	}
}

// TestApplyCannotStore leaves everything as it was.
func TestApplyCannotStore(t *testing.T) {
	o := options(t, text(SourceFwCfg, good))
	s := NewStore(o, Load(t.Context(), o))
	if err := os.RemoveAll(o.Dir); err != nil {
		t.Fatal(err)
	}
	save(t, o.Dir, "in the way")
	if _, err := s.Apply([]byte(other), false); err == nil {
		t.Error("no error")
	}
	if m, _ := s.Current(); m.Name != "good" {
		t.Errorf("the machine follows %q", m.Name)
	}
}

// TestConcurrent applies, reads and subscribes at once, for the race detector.
func TestConcurrent(t *testing.T) {
	o := options(t, text(SourceFwCfg, good))
	s := NewStore(o, Load(t.Context(), o))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 5 {
				machines, cancel := s.Subscribe()
				if _, err := s.Apply([]byte(other), false); err != nil {
					t.Error(err)
				}
				<-machines
				cancel()
			}
		})
	}
	wg.Wait()
}

func options(t *testing.T, sources ...Source) Options {
	return Options{Log: slog.New(slog.DiscardHandler), Board: &status.Board{}, Dir: filepath.Join(t.TempDir(), "machine"), Sources: sources}
}

func save(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
