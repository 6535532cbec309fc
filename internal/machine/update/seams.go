// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"wherry.example/wherry/release"
)

// ErrNoRoom is an error of Stage: the boot partition is full, and nothing was changed.
var ErrNoRoom = errors.New("no room")

// Slots are the OS files on the boot partition, and what the boot loader thinks of them.
// Its implementation knows nothing of why one is written or left.
type Slots interface {
	// Supported is nil, or says to people why this machine's OS file cannot be replaced.
	Supported() error
	// Running is the slot that this boot came from.
	Running() (Slot, error)
	List() ([]Slot, error)
	// Stage writes a complete and verified file as a slot that is tried a few times. Room is the caller's matter.
	Stage(ctx context.Context, version string, src *os.File, progress func(done, total int64)) error
	// Check compares what lies there with what was written.
	Check(ctx context.Context, version, sha256 string) error
	// Bless makes the running slot one that is started for good. It is idempotent.
	Bless() error
	// Retire lets a slot, also the running one, never be started again by itself.
	Retire(version string) error
	// Remove removes a slot, never the running one. One that is not there is no error.
	Remove(version string) error
	// Accepts is nil when this machine's firmware would start the file, as far as its keys tell.
	Accepts(file *os.File) error
}

// Slot is a place for one OS file.
type Slot struct {
	Version   string
	File      string
	Bytes     int64
	Running   bool
	Trial     bool // has a boot counter; for the running one: and was started by it
	TriesLeft int
	TriesDone int
	Bad       bool // no tries are left
}

// Trial tells whether the machine's work is well.
type Trial interface {
	// Baseline is what works now, before a reboot.
	Baseline(ctx context.Context) (json.RawMessage, error)
	// Wait is nil as soon as all of that has worked again for a while; else, after limit, an error
	// that names each check that failed with its output.
	Wait(ctx context.Context, baseline json.RawMessage, limit time.Duration, progress func(Health)) error
	// Return is Wait in a release that the machine came back to: without the checks that the configuration has for new ones.
	Return(ctx context.Context, baseline json.RawMessage, limit time.Duration, progress func(Health)) error
}

// Health is how far a trial is.
type Health struct {
	Held    time.Duration // for how long all has been well
	Needed  time.Duration // for how long it must be
	Working time.Duration // for how long what ran before has run again, whatever else is amiss
	Checks  []Check
}

// Check is one of the things that must be well.
type Check struct {
	Name    string `json:"name"`
	Well    bool   `json:"well"`
	Message string `json:"message,omitempty"` // what is amiss, or what it printed
}

// Deltas make an OS file out of the running one and a small file.
type Deltas interface {
	// Find names the delta that leads from a version to the release, when there is one worth it.
	Find(to release.Release, from release.Version) (release.File, bool)
	// Rebuild writes the file into dst, and tells progress how far it is, until it returns. The result is checked by the caller.
	Rebuild(ctx context.Context, from Slot, delta, dst *os.File, progress func(done, total int64)) error
}
