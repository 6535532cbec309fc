// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package trial

import (
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/api/wherryv1"
)

// work is since when all containers of before run again. Health, the network and checks have no part in it:
// it tells for how long the machine did not do its work, and not how long it took to be sure of it.
type work struct {
	booted time.Time // nothing was started before; zero: not known
	looked time.Time // the last look
	newest time.Time // start of a container, by the clock of then
	since  time.Time // zero: not all of it runs, or there was none
}

// note takes what a look saw of the containers. Each tells when it was started by a clock
// that may have been set since: it is believed within what the looks themselves saw.
func (w *work) note(starts []time.Time, all bool, at time.Time) {
	earliest := w.looked
	if earliest.IsZero() {
		earliest = w.booted
	}
	w.looked = at
	if !all || len(starts) == 0 {
		w.since = time.Time{}
		return
	}
	newest := starts[0]
	for _, s := range starts {
		if s.After(newest) {
			newest = s
		}
	}
	if !w.since.IsZero() && newest.Equal(w.newest) {
		return
	}
	age := max(0, at.Sub(newest))
	if !earliest.IsZero() {
		age = min(age, at.Sub(earliest))
	}
	w.newest, w.since = newest, at.Add(-age)
}

// starts are those of the containers of before, as far as they shall run; all says that they do.
func (h *history) starts(before baseline, now []Container) (starts []time.Time, all bool) {
	all = true
	for _, was := range before.Containers {
		c := was.find(now)
		switch {
		case h.seen[was.ID].excused || c != nil && c.done():
		case c == nil || !runs(*c):
			all = false
		default:
			starts = append(starts, c.State.GetStartedAt().AsTime())
		}
	}
	return starts, all
}

// done is true of a job that ended well.
func (c Container) done() bool {
	return c.OnFailure && c.State.GetPhase() == wherryv1.ContainerPhase_CONTAINER_PHASE_EXITED && c.State.GetExitCode() == 0
}

// booted is when the machine was started; zero: not known.
func booted(now time.Time) time.Time {
	var s unix.Sysinfo_t
	if unix.Sysinfo(&s) != nil {
		return time.Time{}
	}
	return now.Add(-time.Duration(s.Uptime) * time.Second)
}
