// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"wherry.example/wherry/release"
)

// madeDeltas offers a signed file as a delta (the manifest, which is at hand), and
// makes content out of it.
type madeDeltas struct {
	content string
	err     error
	offered int64
	made    int
}

func (d *madeDeltas) Find(to release.Release, _ release.Version) (release.File, bool) {
	d.offered = to.Manifest.Bytes
	return to.Manifest, true
}

func (d *madeDeltas) Rebuild(_ context.Context, _ Slot, delta, dst *os.File, progress func(done, total int64)) error {
	d.made++
	progress(1, 2)
	if info, err := delta.Stat(); err != nil || info.Size() != d.offered {
		return errors.Join(err, errors.New("the delta is not whole"))
	}
	_, err := dst.WriteString(d.content)
	return errors.Join(err, d.err)
}

// TestDelta: what a delta makes is taken if it is the signed file. Else the whole
// file is, and the history says why.
func TestDelta(t *testing.T) {
	whole := string(osFile("1.1.0"))
	for name, c := range map[string]struct {
		deltas madeDeltas
		delta  bool
		why    string
	}{
		"good":          {madeDeltas{content: whole}, true, ""},
		"another file":  {madeDeltas{content: "X" + whole[1:]}, false, "not what was signed"},
		"too much":      {madeDeltas{content: whole + "more"}, false, "bytes came out"},
		"nothing":       {madeDeltas{}, false, "bytes came out"},
		"does not work": {madeDeltas{content: whole[:9], err: errors.New("it took too much memory")}, false, "too much memory"},
	} {
		repo := newRepository(t)
		repo.publish("1.0.0")
		repo.publish("1.1.0")
		w := repo.world("1.0.0")
		w.deltas = &c.deltas
		w.start()
		var told Progress
		if err := w.life(func(u *Updater) error {
			return u.Apply(Request{}, func(p Progress) {
				if p.Phase == "rebuilding" {
					told = p
				}
			})
		}); err != nil || told.Done != 1 || told.Total != 2 || !told.Delta {
			t.Errorf("%s: %v, told %+v of the rebuild", name, err, told)
			continue
		}
		w.untilQuiet()
		e := w.record().last()
		want := c.deltas.offered
		if !c.delta {
			want += int64(len(whole))
		}
		if w.running != "1.1.0" || e.Delta != c.delta || e.Fetched != want || c.deltas.made != 1 || !strings.Contains(e.Note, c.why) {
			t.Errorf("%s: %s runs, made %d times, %+v", name, w.running, c.deltas.made, e)
		}
	}
}

// TestBundleWithoutDelta: a bundle holds the whole file, so no delta is looked for in it.
func TestBundleWithoutDelta(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	data := repo.bundle("1.1.0")
	w := repo.world("1.0.0")
	d := &madeDeltas{content: string(osFile("1.1.0"))}
	w.deltas = d
	w.start()
	if err := w.life(func(u *Updater) error {
		return u.applyBundle(Request{}, int64(len(data)), bytes.NewReader(data), nil)
	}); err != nil {
		t.Fatal(err)
	}
	if w.untilQuiet(); w.running != "1.1.0" || d.made != 0 || w.record().last().Delta {
		t.Errorf("%s runs, made %d times", w.running, d.made)
	}
}
