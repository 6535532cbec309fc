// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package timesync

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sample is what one server says.
type sample struct {
	Server string
	// Offset is what must be added to the clock.
	Offset time.Duration
	// Distance bounds how wrong the server can be.
	Distance time.Duration
}

// median returns the sample in the middle: with three answers or more, one
// liar is outvoted. Of two the nearer one counts.
func median(samples []sample) sample {
	sorted := slices.SortedFunc(slices.Values(samples), func(a, b sample) int { return cmp.Compare(a.Offset, b.Offset) })
	if len(sorted) == 2 {
		return slices.MinFunc(sorted, func(a, b sample) int { return cmp.Compare(a.Distance, b.Distance) })
	}
	return sorted[len(sorted)/2]
}

const (
	// stepLimit is the largest error that is steered away instead of jumped over.
	stepLimit = 128 * time.Millisecond
	// calm is an error that shows a clock which needs less attention.
	calm = 4 * time.Millisecond
)

// action is what to do about a sample, and when to ask again.
type action struct {
	Step, Slew bool
	Pause      time.Duration
}

// discipline decides about samples. The zero value has seen none.
type discipline struct {
	set      bool // by a server, once
	doubtful bool // the last sample was far off
	poll     time.Duration
}

func (d *discipline) next(s sample) action {
	off := s.Offset.Abs()
	far := off > stepLimit
	switch {
	case far && d.set && !d.doubtful:
		// One answer far off can be the network's fault.
		d.doubtful = true
		return action{Pause: settle}
	case far:
		d.set, d.doubtful, d.poll = true, false, shortestPoll
		return action{Step: true, Pause: settle}
	}
	d.set, d.doubtful = true, false
	if off <= calm {
		d.poll = min(2*d.poll, longestPoll)
	} else {
		d.poll /= 2
	}
	d.poll = max(d.poll, shortestPoll)
	return action{Slew: true, Pause: d.poll}
}

// epoch is day 0 of release versions.
var epoch = time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)

// maxYears bounds how far after a release a time is believed.
const maxYears = 30

// releaseDay reads the day out of a version: the days since the epoch.
func releaseDay(version string) time.Time {
	days, _, _ := strings.Cut(version, ".")
	n, err := strconv.Atoi(days)
	if err != nil || n < 0 || n > 365*maxYears {
		return epoch
	}
	return epoch.AddDate(0, 0, n)
}

// credible says whether a server's time can be one at which this release runs.
func credible(t, earliest time.Time) bool {
	return !t.Before(earliest) && t.Before(earliest.AddDate(maxYears, 0, 0))
}
