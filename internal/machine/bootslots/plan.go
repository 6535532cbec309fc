// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package bootslots

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"wherry.example/wherry/internal/format/bootcount"
	"wherry.example/wherry/release"
)

const (
	prefix = "wherry_"
	// leftover ends the names of files that are being written; the loader does not take them.
	leftover = ".tmp"
	// tries are what a new OS file gets.
	tries = 3
	// maxSlots is how many OS files the boot partition holds: the one that
	// runs, the one before it, and the one that comes.
	maxSlots = 3
)

// file is a directory entry of EFI/Linux.
type file struct {
	name  string
	bytes int64
}

// versionOf reads the name of an OS file of ours.
func versionOf(name string) (version string, n bootcount.Name, ok bool) {
	if n, ok = bootcount.Parse(name); !ok || len(n.Stem) <= len(prefix) || !strings.EqualFold(n.Stem[:len(prefix)], prefix) {
		return "", n, false
	}
	return n.Stem[len(prefix):], n, true
}

// nameOf makes the name of an OS file.
func nameOf(version string) bootcount.Name { return bootcount.Name{Stem: prefix + version} }

// slotsOf makes slots of the names in EFI/Linux, the newest first; running is
// the stem of the one that runs. Of two names of one version the one that the
// loader prefers counts. Dirty: something is left of an interrupted writer.
func slotsOf(files []file, running string) (slots []Slot, dirty bool) {
	for _, f := range files {
		version, n, ok := versionOf(f.name)
		if isLeftover(f) {
			dirty = true
		}
		if !ok || f.bytes == 0 {
			continue
		}
		slots = append(slots, Slot{
			Version: version, File: f.name, Bytes: f.bytes, Running: strings.EqualFold(n.Stem, running),
			Trial: n.Counted, TriesLeft: n.Left, TriesDone: n.Done, Bad: n.Bad(),
		})
	}
	slices.SortFunc(slots, preferred)
	return slices.CompactFunc(slots, func(a, b Slot) bool { return a.Version == b.Version }), dirty
}

// isLeftover tells what an interrupted writer left: a file that was not whole yet, or, of a rename, a name
// that does not lead to the contents yet. The loader passes over the latter, and starts the file by its other name.
func isLeftover(f file) bool {
	if _, _, ok := versionOf(f.name); ok {
		return f.bytes == 0
	}
	return len(f.name) > len(prefix) && strings.EqualFold(f.name[:len(prefix)], prefix) && strings.HasSuffix(strings.ToLower(f.name), leftover)
}

// preferred orders slots of the newest version first, and the names of one
// version as the loader does: without a counter, then by tries left.
func preferred(a, b Slot) int {
	return cmp.Or(
		-compareVersions(a.Version, b.Version),
		cmp.Compare(btoi(a.Trial), btoi(b.Trial)),
		-cmp.Compare(a.TriesLeft, b.TriesLeft),
		cmp.Compare(a.File, b.File),
	)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// compareVersions orders versions; what is none of ours is older than all.
func compareVersions(a, b string) int {
	x, errX := release.ParseVersion(a)
	y, errY := release.ParseVersion(b)
	if errX != nil || errY != nil {
		return cmp.Or(cmp.Compare(btoi(errX == nil), btoi(errY == nil)), strings.Compare(a, b))
	}
	return x.Compare(y)
}

func pick(slots []Slot, version string) (Slot, error) {
	for _, s := range slots {
		if s.Version == version {
			return s, nil
		}
	}
	return Slot{}, fmt.Errorf("%w: %s", ErrNotFound, version)
}

// next is the slot that the loader starts by itself.
func next(slots []Slot) (Slot, bool) {
	for _, s := range slots { // the newest first
		if !s.Bad {
			return s, true
		}
	}
	return Slot{}, false
}

// planStage says whether a version may be written now.
func planStage(slots []Slot, version string) error {
	if _, err := release.ParseVersion(version); err != nil {
		return err
	}
	others := 0
	for _, s := range slots {
		switch {
		case s.Version == version && s.Running:
			return errors.New("it is the one that runs")
		case s.Version != version:
			others++
		}
		if s.Running && compareVersions(version, s.Version) < 0 {
			return fmt.Errorf("it is older than %s, which runs: the loader would not choose it", s.Version)
		}
	}
	if others >= maxSlots {
		return fmt.Errorf("%w: it holds %d OS files already", ErrNoRoom, others)
	}
	return nil
}

// planBless returns the running slot's name and the one it gets; trial tells
// whether the loader counted what runs.
func planBless(slots []Slot, trial bool) (from, to string, err error) {
	for _, s := range slots {
		if !s.Running {
			continue
		}
		to = nameOf(s.Version).String()
		switch {
		case !s.Trial:
			return s.File, s.File, nil
		case !trial:
			return "", "", errors.New("what runs is not what was on trial")
		case s.Bad:
			// With its last try the loader leaves "+0-3": it runs, and may be kept.
			if s.TriesDone < tries {
				return "", "", errors.New("it was retired")
			}
		}
		return s.File, to, nil
	}
	return "", "", fmt.Errorf("%w: the one that runs is gone", ErrNotFound)
}

// planRetire returns a slot's name and the one it gets.
func planRetire(slots []Slot, version string) (from, to string, err error) {
	s, err := pick(slots, version)
	if err != nil {
		return "", "", err
	}
	if s.Bad && !s.Running {
		return s.File, s.File, nil
	}
	rest := slices.DeleteFunc(slices.Clone(slots), func(o Slot) bool { return o.Version == version })
	if _, ok := next(rest); !ok {
		return "", "", errors.New("there is no other that could be started")
	}
	n := nameOf(version)
	n.Counted = true
	// Fewer than all tries: so that nobody takes it for one that runs on its last.
	n.Done = min(s.TriesDone, tries-1)
	return s.File, n.String(), nil
}

// mayRemove refuses what the machine needs.
func mayRemove(slots []Slot, version string) error {
	s, err := pick(slots, version)
	if err != nil {
		return err
	}
	if s.Running {
		return errors.New("it is the one that runs")
	}
	rest := slices.DeleteFunc(slices.Clone(slots), func(o Slot) bool { return o.Version == version })
	good := slices.ContainsFunc(rest, func(o Slot) bool { return !o.Trial })
	if !s.Trial && !good {
		return errors.New("it is what the machine goes back to while the running one is on trial")
	}
	return nil
}
