// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"wherry.example/wherry/release"
)

// Bounds of what is tried again.
const (
	maxLeaving = 3 // reboots away from a release
	maxPassed  = 3 // boots that did not start what is staged
	maxSlots   = 3 // the running release, the one before it, and the new one
)

// Seen is what the planner goes by, beside the record.
type Seen struct {
	Running    Slot
	Slots      []Slot
	Boot       string // id of this boot
	Persistent bool   // the state is on a disk
	Damage     string // what is wrong with the file that was staged; asked for where wantsCheck says so
	Died       string // why a kernel before this one died
	Now        time.Time
}

func (s Seen) slot(version string) (Slot, bool) {
	i := slices.IndexFunc(s.Slots, func(x Slot) bool { return x.Version == version })
	if i < 0 {
		return Slot{}, false
	}
	return s.Slots[i], true
}

// other is the newest slot beside the running one that has proved itself.
func (s Seen) other() (v release.Version, ok bool) {
	for _, x := range s.Slots {
		got, err := release.ParseVersion(x.Version)
		if err != nil || x.Version == s.Running.Version || x.Running || x.Bad || x.Trial {
			continue
		}
		if !ok || got.Compare(v) > 0 {
			v, ok = got, true
		}
	}
	return v, ok
}

// Decision is what follows from the record and from what is seen. The order is:
// Remove and, unless Reboot, Retire; then the record is written; then the rest.
// Each part is idempotent, so that a cut between any two leads here again.
type Decision struct {
	Record  Record
	Remove  string // a slot that was never complete
	Retire  string // a slot that shall not be started again
	Bless   bool   // the running slot
	Try     bool   // wait for the work to be well
	Reboot  bool   // into the other slot
	Settled bool   // this boot needs no proof (any more)
	// Measure is the attempt whose downtime ends when the work is well again.
	Measure *Attempt
	Say     string // what people should hear, if anything
}

// Decide reconciles the record with the boot partition, once per start of wherryd.
func Decide(r Record, s Seen) Decision {
	r.History = slices.Clone(r.History)
	if a := r.Attempt; a != nil {
		copied := *a
		r.Attempt = &copied
	}
	switch {
	case s.Running.Trial:
		return onTrial(r, s)
	case !r.under():
		return Decision{Record: r, Settled: true}
	case s.Running.Version == r.Attempt.To.String():
		return onTarget(r, s)
	}
	return onOther(r, s)
}

// onTrial: this boot was counted by the loader, and nobody has vouched for its release.
func onTrial(r Record, s Seen) Decision {
	running, err := release.ParseVersion(s.Running.Version)
	if err != nil { // not one of ours: nothing can be said about it
		return Decision{Record: r, Settled: true, Say: fmt.Sprintf("%q is not a release's version", s.Running.Version)}
	}
	if r.under() && r.Attempt.To == running {
		if !s.Persistent && r.Attempt.Failed == "" {
			r.Attempt.Failed = withoutState
		}
		if r.Attempt.Failed != "" {
			return leave(r, s)
		}
		return try(r, s)
	}
	last := r.last()
	if last.To == running && last.Result == Committed { // the blessing was lost
		return Decision{Record: r, Bless: true, Settled: true}
	}
	if last.To == running && last.Result == Stayed { // nobody can help that
		return Decision{Record: r, Settled: true}
	}
	from, _ := s.other()
	r.Attempt = &Attempt{From: from, To: running, How: Unknown, Begun: s.Now, Boot: s.Boot}
	if a, bad := r.avoided(running); bad {
		r.Attempt.Failed, r.Attempt.GivenUp = "it did not work here before: "+a.Reason, a.ByHand
		if a.ByHand {
			r.Attempt.Failed = "somebody went back from it before"
		}
		return leave(r, s)
	}
	if !s.Persistent { // without state nothing is ever staged: it was there before this boot
		r.Attempt.Failed = withoutState
		return leave(r, s)
	}
	return try(r, s)
}

const withoutState = "the state disk could not be used"

func try(r Record, s Seen) Decision {
	a := r.Attempt
	r.State = release.StateTrying
	if a.Boot != s.Boot || a.Starts == 0 {
		a.Starts++
		a.Boot = s.Boot
	}
	return Decision{Record: r, Try: true, Say: fmt.Sprintf("trying %s: the machine's work must be well again", a.To)}
}

// leave goes back to the other release, unless that has been tried too often
// or there is none.
func leave(r Record, s Seen) Decision {
	a := r.Attempt
	r.State = release.StateTrying
	if _, ok := s.other(); !ok || a.Leaving >= maxLeaving {
		reason := a.Failed + "; there is no other release on the boot partition to go back to"
		if ok {
			reason = fmt.Sprintf("%s; the machine was restarted %d times and the loader started this release each time", a.Failed, a.Leaving)
		}
		r.avoid(reason, s.Now)
		r.end(release.StateIdle, Stayed, reason, s.Now)
		return Decision{Record: r, Settled: true, Say: fmt.Sprintf("%s stays, although: %s", a.To, reason)}
	}
	a.Leaving++
	return Decision{Record: r, Retire: a.To.String(), Reboot: true, Say: fmt.Sprintf("leaving %s: %s", a.To, a.Failed)}
}

// onTarget: the attempt's release runs, and is not counted.
func onTarget(r Record, s Seen) Decision {
	a := r.Attempt
	switch {
	case a.Failed != "":
		return leave(r, s)
	case r.State == release.StateTrying: // blessed, and then the power went
		return commit(r, s)
	}
	return try(r, s)
}

// commit ends an attempt well.
func commit(r Record, s Seen) Decision {
	a := r.Attempt
	if a.Published.After(r.Floor) {
		r.Floor = a.Published
	}
	r.forgive(a.To)
	r.end(release.StateCommitted, Committed, "", s.Now)
	return Decision{Record: r, Settled: true, Say: fmt.Sprintf("%s is here to stay", a.To)}
}

// goneReason is told of a staged file that nobody started.
const goneReason = "its file is not on the boot partition any more, or has lost its contents"

// onOther: another release runs than the attempt's.
func onOther(r Record, s Seen) Decision {
	a := r.Attempt
	slot, there := s.slot(a.To.String())
	started := there && (slot.TriesDone > 0 || slot.Bad)
	switch {
	case r.State == release.StateTrying, started:
		return failed(r, s, slot, there)
	case r.State != release.StateStaged: // cut while it was written
		r.State, r.Attempt = release.StateIdle, nil
		d := Decision{Record: r, Settled: true, Say: fmt.Sprintf("%s was not written to its end: it is taken away again", a.To)}
		if there {
			d.Remove = a.To.String()
		}
		return d
	case !there && r.lostBefore(a.To):
		return failed(r, s, slot, there)
	case !there: // a disk that forgot, and no fault of the release
		reason := goneReason + ": it may be taken again"
		r.end(release.StateIdle, Lost, reason, s.Now)
		return Decision{Record: r, Settled: true, Say: fmt.Sprintf("%s: %s", a.To, reason)}
	case a.Boot == s.Boot:
		return Decision{Record: r, Settled: true}
	}
	a.Boot, a.Passed = s.Boot, a.Passed+1
	if a.Passed >= maxPassed || s.Damage != "" { // the loader passes over a file in which it finds no release
		return failed(r, s, slot, there)
	}
	return Decision{Record: r, Settled: true, Say: fmt.Sprintf("%s is staged, and the loader started %s: it is tried at the next restart", a.To, s.Running.Version)}
}

// failed ends an attempt whose release did not come to be the one that runs.
func failed(r Record, s Seen, slot Slot, there bool) Decision {
	a := r.Attempt
	reason := whyFailed(*a, slot, there, s.Damage)
	if s.Died != "" && a.Failed == "" {
		reason += "; a kernel ended with " + s.Died
	}
	reason = bounded(reason, maxReason)
	r.avoid(reason, s.Now)
	r.end(release.StateRolledBack, RolledBack, reason, s.Now)
	d := Decision{Record: r, Settled: true, Measure: a, Say: fmt.Sprintf("rolled back from %s to %s: %s", a.To, s.Running.Version, reason)}
	if there && !slot.Bad {
		d.Retire = a.To.String()
	}
	return d
}

// whyFailed is the reason in words.
func whyFailed(a Attempt, slot Slot, there bool, damage string) string {
	switch {
	case a.Failed != "":
		return a.Failed
	case damage != "":
		return "the file on the boot partition is damaged: " + damage
	case a.Passed >= maxPassed:
		return fmt.Sprintf("the boot loader never started it, in %d restarts", a.Passed)
	case !there && a.Starts == 0:
		return goneReason + ", for the second time"
	case !there:
		return fmt.Sprintf("wherryd came up %s, the machine never got well, and its file has gone from the boot partition", times(a.Starts))
	case a.Starts == 0:
		return fmt.Sprintf("started %s, and wherryd never came up with its state: the firmware refused the file, or its kernel or PID 1 ended early", times(slot.TriesDone))
	}
	return fmt.Sprintf("started %s, wherryd came up %s, and the machine never got well", times(max(slot.TriesDone, a.Starts)), times(a.Starts))
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// wantsCheck says that the reason depends on whether the staged file is whole.
func wantsCheck(r Record, s Seen) bool {
	if !r.under() || s.Running.Version == r.Attempt.To.String() || r.Attempt.Failed != "" || r.Attempt.Starts > 0 || r.Attempt.File.SHA256 == "" {
		return false
	}
	slot, there := s.slot(r.Attempt.To.String())
	return there && (slot.TriesDone > 0 || slot.Bad || r.State == release.StateStaged)
}

// surplus picks the slots to remove before a new one is written: its own, the
// bad ones, and the oldest until there is a place; or all but the running one.
func surplus(slots []Slot, version string, all bool) (out []string) {
	var kept []string // that could go
	for _, s := range slots {
		switch {
		case s.Running:
		case all, s.Version == version, s.Bad:
			out = append(out, s.Version)
		default:
			kept = append(kept, s.Version)
		}
	}
	slices.SortStableFunc(kept, olderFirst)
	excess := len(kept) - (maxSlots - 2) // besides the running one and the new one
	return append(out, kept[:max(0, excess)]...)
}

// olderFirst orders versions; what is none comes before all.
func olderFirst(a, b string) int {
	v, errA := release.ParseVersion(a)
	w, errB := release.ParseVersion(b)
	switch {
	case errA != nil && errB != nil:
		return strings.Compare(a, b)
	case errA != nil:
		return -1
	case errB != nil:
		return 1
	}
	return v.Compare(w)
}
