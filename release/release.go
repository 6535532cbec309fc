// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"fmt"
	"path"
	"slices"
	"time"
)

// OSFile is the part of a release that machines take: the whole OS in one file.
const OSFile = "wherry.efi"

// Release is one edition of a published version for one architecture, as
// the targets role signed it.
type Release struct {
	Version   Version             `json:"version"`
	Edition   string              `json:"edition"`
	Arch      string              `json:"arch"`
	Published time.Time           `json:"published"`
	Channels  map[Channel]Rollout `json:"channels,omitempty"`
	Withdrawn *Withdrawal         `json:"withdrawn,omitempty"`
	Manifest  File                `json:"manifest"`
	Files     []File              `json:"files"` // the parts, by name
	Deltas    []Delta             `json:"deltas,omitempty"`
}

// Withdrawal says since when, and why, nobody takes a release any more.
type Withdrawal struct {
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
}

// File is a signed file of a repository.
type File struct {
	Path   string `json:"path"` // as signed: releases/VERSION/EDITION-ARCH/NAME
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Name is the file's own name.
func (f File) Name() string { return path.Base(f.Path) }

// Location is where the file lies in a repository.
func (f File) Location() string {
	dir, name := path.Split(f.Path)
	return "targets/" + dir + f.SHA256 + "." + name
}

// File returns the part with that name.
func (r Release) File(name string) (File, bool) {
	i := slices.IndexFunc(r.Files, func(f File) bool { return f.Name() == name })
	if i < 0 {
		return File{}, false
	}
	return r.Files[i], true
}

// Bytes is the size of all parts together.
func (r Release) Bytes() (n int64) {
	for _, f := range r.Files {
		n += f.Bytes
	}
	return n
}

// Machine is what decides which release a machine takes.
type Machine struct {
	ID      string // the machine's own, never sent anywhere
	Edition string
	Arch    string
	Current Version
	Channel Channel
	Pin     *Version  // take this version and no other
	Avoid   []Avoided // unless pinned, the machine waits for a newer one than these
}

// Avoided is a release that a machine leaves alone, and why.
type Avoided struct {
	Version Version   `json:"version"`
	Reason  string    `json:"reason"`
	At      time.Time `json:"at"`
	// ByHand: somebody went back from it, and nothing says that it did not work.
	ByHand bool `json:"by_hand,omitempty"`
}

// UntilNewer says for how long a release is left alone from which somebody went back.
const UntilNewer = "it is left alone until there is a newer release, or: wherry machine update apply --retry"

// String tells what became of it here.
func (a Avoided) String() string {
	on := ""
	if !a.At.IsZero() {
		on = " on " + a.At.UTC().Format(time.DateOnly)
	}
	if a.ByHand {
		return fmt.Sprintf("somebody went back from %s%s", a.Version, on)
	}
	return fmt.Sprintf("%s did not work here%s", a.Version, on)
}

// refusal says why the release itself is not taken, and what ends that.
func (a Avoided) refusal(pinned bool) string {
	switch {
	case a.ByHand && pinned:
		return a.String() + ": it is taken again by: wherry machine update apply --retry"
	case a.ByHand:
		return a.String() + ": " + UntilNewer
	case a.Reason == "":
		return a.String()
	}
	return a.String() + ": " + a.Reason
}

// Choose returns the release that the machine should go to, or why it stays
// where it is. It never chooses an older one.
func Choose(all []Release, m Machine, now time.Time) (next Release, found bool, why string) {
	for _, r := range slices.SortedFunc(slices.Values(all), newestFirst) {
		if r.Edition != m.Edition || r.Arch != m.Arch || !m.wants(r) {
			continue
		}
		reason := m.refuses(r, now)
		if reason == "" {
			return r, true, ""
		}
		if why == "" { // what keeps the machine from the newest is what people ask
			why = reason
		}
	}
	switch {
	case why != "":
	case m.Pin != nil:
		why = fmt.Sprintf("pinned to %s, which is not in the repository", *m.Pin)
	default:
		why = fmt.Sprintf("there is no release in channel %s", m.Channel)
	}
	return Release{}, false, why
}

func newestFirst(a, b Release) int { return b.Version.Compare(a.Version) }

// wants tells whether the release is one that the machine looks at.
func (m Machine) wants(r Release) bool {
	if m.Pin != nil {
		return r.Version == *m.Pin
	}
	_, in := r.Channels[m.Channel]
	return in
}

// refuses says why the machine does not take a release that it looks at.
func (m Machine) refuses(r Release, now time.Time) string {
	switch c := r.Version.Compare(m.Current); {
	case c == 0:
		return fmt.Sprintf("%s runs already", r.Version)
	case c < 0:
		return fmt.Sprintf("%s is older than %s, which runs", r.Version, m.Current)
	}
	if w := r.Withdrawn; w != nil {
		return fmt.Sprintf("%s was withdrawn on %s: %s", r.Version, w.At.Format(time.DateOnly), w.Reason)
	}
	if i := slices.IndexFunc(m.Avoid, func(a Avoided) bool { return a.Version == r.Version }); i >= 0 {
		return m.Avoid[i].refusal(m.Pin != nil)
	}
	if m.Pin != nil {
		return ""
	}
	for _, a := range m.Avoid {
		if r.Version.Compare(a.Version) < 0 {
			return fmt.Sprintf("%s, and %s is older", a, r.Version)
		}
	}
	if rollout := r.Channels[m.Channel]; !rollout.Includes(m.ID, r.Version, now) {
		return fmt.Sprintf("%s is for %d percent of the machines from %s on, and this one has place %d",
			r.Version, rollout.Percent, rollout.Start.UTC().Format(time.DateTime), Place(m.ID, r.Version))
	}
	return ""
}
