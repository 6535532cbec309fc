// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wherry.example/wherry/config"
	"wherry.example/wherry/release"
)

// What was fetched before somebody applies it is told as it came, by another wherryd too.
func TestFetchedBefore(t *testing.T) {
	whole := string(osFile("1.1.0"))
	for name, c := range map[string]struct {
		deltas madeDeltas
		delta  bool
		why    string
	}{
		"a delta":         {madeDeltas{content: whole}, true, ""},
		"a refused delta": {madeDeltas{content: "X" + whole[1:]}, false, "not what was signed"},
	} {
		repo := newRepository(t)
		repo.publish("1.1.0")
		w := repo.world("1.0.0")
		w.deltas, w.config.Mode = &c.deltas, config.UpdatesDownloadOnly
		for _, do := range []func(*Updater) error{
			func(u *Updater) error { u.round(t.Context()); return nil },
			func(u *Updater) error { u.round(t.Context()); return nil },
			apply,
		} {
			w.start()
			if err := w.life(do); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		w.untilQuiet()
		want := c.deltas.offered
		if !c.delta {
			want += int64(len(whole))
		}
		if e := w.record().last(); w.running != "1.1.0" || e.Delta != c.delta || e.Fetched != want || c.deltas.made != 1 || !strings.Contains(e.Note, c.why) {
			t.Errorf("%s: %s runs, made %d times, want %d bytes: %+v", name, w.running, c.deltas.made, want, e)
		}
	}
}

// What lies beside a download, and what comes then, add up to what came in all.
func TestCame(t *testing.T) {
	const whole, delta = 1000, 50
	for name, c := range map[string]struct {
		kept      string // beside the download
		had, wire int64  // of the file
		delta     bool   // lies there
		bytes     int64
		made      bool
	}{
		"at once":                       {"", 0, 1000, false, 1000, false},
		"resumed":                       {"", 400, 600, false, 1000, false},
		"resumed from the beginning":    {"", 400, 1000, false, 1400, false},
		"it was another file":           {"", 1000, 1000, false, 2000, false},
		"fetched before":                {"", 1000, 0, false, 1000, false},
		"fetched before as a delta":     {`{"made":1000}`, 1000, 0, true, 50, true},
		"more came for it":              {`{"made":1000,"wasted":7}`, 1000, 0, true, 57, true},
		"what was made is not there":    {`{"made":1000}`, 0, 1000, true, 1050, false},
		"the rebuild was cut":           {`{"made":1000}`, 300, 700, true, 750, false},
		"what was made is damaged":      {`{"made":1000}`, 1000, 1000, true, 1050, false},
		"what was kept is damaged":      {`{"made":1000`, 1000, 0, true, 1050, false},
		"what was kept makes no sense":  {`{"made":-5,"wasted":-1}`, 1000, 0, true, 1050, false},
		"something else was kept there": {strings.Repeat(" ", maxCame) + `{"made":1000}`, 1000, 0, true, 1050, false},
	} {
		dir := t.TempDir()
		file, err := os.Create(filepath.Join(dir, "x.efi"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "x.came"), []byte(c.kept), 0o600); err != nil {
			t.Fatal(err)
		}
		if c.delta {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, "x.delta"), make([]byte, delta), 0o600))
		}
		f := fetched{file: release.File{Bytes: whole}, osFile: file}
		got := cameBeside(file)
		got.Made = min(got.Made, c.had)
		got.grew(f.file, c.had, whole, c.wire)
		if err := errors.Join(err, got.save()); err != nil {
			t.Fatal(err)
		}
		for range 2 { // at once, and after a restart
			if got.tell(&f); f.bytes != c.bytes || f.delta != c.made {
				t.Errorf("%s: %d bytes, delta %v, want %d, %v", name, f.bytes, f.delta, c.bytes, c.made)
			}
			got = cameBeside(file)
		}
		file.Close()
	}
}
