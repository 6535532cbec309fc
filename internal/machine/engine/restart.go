// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"time"

	"wherry.example/wherry/api/wherryv1"
)

// The pause before a restart doubles from the first to the last of these, and
// begins anew after a run that lasted goodRun.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = time.Minute
	goodRun    = 10 * time.Second
)

// restartQuestion is all that the decision about an ended container depends on.
type restartQuestion struct {
	Policy      *wherryv1.RestartPolicy
	WantRunning bool // nobody stopped it
	ExitCode    int
	Ran         time.Duration
	Failures    uint32 // ends in a row before this one
	NeverRan    bool   // the start itself did not work
}

// restartAnswer says what follows. Failures is the new count.
type restartAnswer struct {
	Restart  bool
	Pause    time.Duration
	Failures uint32
}

// decideRestart is the restart policy after an end.
func decideRestart(q restartQuestion) restartAnswer {
	failures := q.Failures + 1
	if q.Ran >= goodRun {
		failures = 1
	}
	a := restartAnswer{Failures: failures, Pause: pauseBefore(failures)}
	if !q.WantRunning {
		return a
	}
	switch q.Policy.GetKind() {
	case wherryv1.RestartPolicy_KIND_ALWAYS, wherryv1.RestartPolicy_KIND_UNLESS_STOPPED:
		a.Restart = true
	case wherryv1.RestartPolicy_KIND_ON_FAILURE:
		// max counts restarts over the container's life since a user's start:
		// a good run gives it a short pause again, but no new attempts.
		limit := q.Policy.GetMaxRetries()
		a.Failures = q.Failures + 1
		a.Restart = (q.ExitCode != 0 || q.NeverRan) && (limit == 0 || q.Failures < limit)
	}
	return a
}

func pauseBefore(failure uint32) time.Duration {
	p := firstPause
	for range failure - 1 {
		if p *= 2; p >= lastPause {
			return lastPause
		}
	}
	return p
}

// comesBack decides, once after the engine started, about a container that
// does not run. rebooted says that the machine was off meanwhile. WantRunning
// without running is a start that was cut short, or a shutdown of the machine.
func comesBack(r record, rebooted bool) bool {
	if r.WantRunning {
		return true
	}
	// As docker's: a stop by hand lasts until the machine starts again.
	return r.Spec.GetRestart().GetKind() == wherryv1.RestartPolicy_KIND_ALWAYS && rebooted && r.State.GetStartedAt() != nil
}
