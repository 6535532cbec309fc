// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"wherry.example/wherry/release"
)

// Status is what the status page tells.
type Status struct {
	At       time.Time       `json:"at"`
	Expires  time.Time       `json:"expires"` // the timestamp
	Machines int             `json:"machines"`
	Running  []Running       `json:"running"`
	Rollouts []RolloutStatus `json:"rollouts"`
	Failures []Failure       `json:"failures"`
}

// Running is how many machines run a version.
type Running struct {
	Version  release.Version `json:"version"`
	Channel  release.Channel `json:"channel"`
	Machines int             `json:"machines"`
}

// RolloutStatus is how far a release has come in a channel.
type RolloutStatus struct {
	Version   release.Version `json:"version"`
	Channel   release.Channel `json:"channel"`
	Percent   int             `json:"percent"`
	Start     time.Time       `json:"start"`
	Withdrawn string          `json:"withdrawn,omitempty"`
	Machines  int             `json:"machines"` // in the channel
	Running   int             `json:"running"`
	Trying    int             `json:"trying"`
	Failed    int             `json:"failed"`  // it did not work there
	ByHand    int             `json:"by_hand"` // somebody went back from it
}

// Failure is a reason for which machines went back by themselves.
type Failure struct {
	Version  release.Version `json:"version"`
	Reason   string          `json:"reason"`
	Machines int             `json:"machines"`
	Last     time.Time       `json:"last"`
}

const maxFailures = 100

// summarize counts reports. It is a function of its arguments alone.
func summarize(releases []release.Release, reports []Received, at time.Time) Status {
	s := Status{At: at, Machines: len(reports), Running: []Running{}, Rollouts: []RolloutStatus{}, Failures: failures(reports)}
	type place struct {
		v release.Version
		c release.Channel
	}
	running := map[place]int{}
	for _, r := range reports {
		running[place{r.Report.Version, r.Report.Channel}]++
	}
	for p, n := range running {
		s.Running = append(s.Running, Running{p.v, p.c, n})
	}
	slices.SortFunc(s.Running, func(a, b Running) int {
		return cmp.Or(b.Version.Compare(a.Version), cmp.Compare(a.Channel, b.Channel))
	})
	seen := map[place]bool{}
	for _, rel := range releases {
		for _, c := range slices.Sorted(maps.Keys(rel.Channels)) {
			if p := (place{rel.Version, c}); !seen[p] {
				seen[p] = true
				s.Rollouts = append(s.Rollouts, rolloutStatus(rel, c, reports))
			}
		}
	}
	return s
}

func rolloutStatus(rel release.Release, c release.Channel, reports []Received) RolloutStatus {
	s := RolloutStatus{Version: rel.Version, Channel: c, Percent: rel.Channels[c].Percent, Start: rel.Channels[c].Start}
	if rel.Withdrawn != nil {
		s.Withdrawn = cmp.Or(rel.Withdrawn.Reason, "without a reason")
	}
	for _, r := range reports {
		if r.Report.Channel != c {
			continue
		}
		s.Machines++
		target := r.Report.Target != nil && *r.Report.Target == rel.Version
		switch {
		case target && r.Report.State == release.StateRolledBack && r.Report.ByHand:
			s.ByHand++
		case target && r.Report.State == release.StateRolledBack:
			s.Failed++
		case target && (r.Report.State == release.StateTrying || r.Report.State == release.StateStaged):
			s.Trying++
		case r.Report.Version == rel.Version:
			s.Running++
		}
	}
	return s
}

func failures(reports []Received) []Failure {
	type what struct {
		v      release.Version
		reason string
	}
	found := map[what]Failure{}
	for _, r := range reports {
		if r.Report.State != release.StateRolledBack || r.Report.Target == nil || r.Report.ByHand {
			continue
		}
		k := what{*r.Report.Target, r.Report.Reason}
		f := found[k]
		f.Version, f.Reason, f.Machines = k.v, k.reason, f.Machines+1
		if r.At.After(f.Last) {
			f.Last = r.At
		}
		found[k] = f
	}
	list := slices.SortedFunc(maps.Values(found), func(a, b Failure) int {
		return cmp.Or(cmp.Compare(b.Machines, a.Machines), b.Version.Compare(a.Version), cmp.Compare(a.Reason, b.Reason))
	})
	if list == nil {
		list = []Failure{}
	}
	return list[:min(len(list), maxFailures)]
}
