// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"wherry.example/wherry/release"
)

// This file keeps attempts apart: there is one at a time, and who comes second
// gets a conflict, waits for the end of a look, or joins.

// job is one look or attempt that is going on.
type job struct {
	u     *Updater
	how   How
	wish  Request // of the person who asked; By also of the machine itself
	begun time.Time
	also  func(Progress) // must not wait

	// With Updater.mu held:
	heir    *Request // what somebody who joined wants when the file is on the disk
	leaving bool     // it has gone too far to be left to an heir: the machine restarts
	err     error    // how it ended
}

// tell lets everybody know how far it is.
func (j *job) tell(p Progress) {
	j.u.setProgress(p)
	if j.also != nil {
		j.also(p)
	}
}

// begin refuses a second attempt beside the one that is going on.
func (u *Updater) begin(how How, wish Request, also func(Progress)) (*job, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.impossible != nil:
		return nil, errdefs.ErrFailedPrecondition.WithMessage("this machine cannot be updated: " + u.impossible.Error())
	case u.closing:
		return nil, errClosing
	case !u.reconciled:
		return nil, errdefs.ErrUnavailable.WithMessage("the machine is still finding out what it was started from: ask again in a moment")
	case u.record.State == release.StateTrying:
		return nil, errdefs.ErrConflict.WithMessage(fmt.Sprintf("%s is on trial: wait for it to be committed or rolled back", u.record.Attempt.To))
	case u.job != nil:
		return nil, u.conflictLocked("ask again when it has ended")
	}
	if err := u.identifyLocked(); err != nil {
		return nil, err
	}
	u.job = &job{u: u, how: how, wish: wish, begun: u.o.Now(), also: also}
	return u.job, nil
}

// conflictLocked tells who comes second what is under way, and what they can do.
func (u *Updater) conflictLocked(advice string) error {
	j, p := u.job, u.progress
	text := fmt.Sprintf("another update is under way (%s): %s", j.how, cmp.Or(p.Phase, "checking"))
	if p.Target != "" {
		text += " " + p.Target
	}
	text += ", begun at " + j.begun.UTC().Format("15:04:05 MST")
	if by := j.wish.By; by != "" && !strings.EqualFold(by, string(j.how)) {
		text += " by " + by
	}
	return errdefs.ErrConflict.WithMessage(text + ": " + advice + " (wherry machine update status tells how far it is)")
}

// end lets the next one begin. It returns err.
func (j *job) end(err error) error {
	j.u.mu.Lock()
	j.err = err
	j.u.job = nil
	if j.u.progress.Phase != "rebooting" || err != nil {
		j.u.progress = Progress{}
	}
	j.u.mu.Unlock()
	j.u.tellBoard()
	return err
}

// leaves tells whether an attempt that has this release on the disk ends here,
// because somebody has joined who goes on with it. Else, if it restarts the machine now, nobody
// can do so any more.
func (j *job) leaves(to release.Version, restarts bool) bool {
	j.u.mu.Lock()
	defer j.u.mu.Unlock()
	if j.heir != nil && j.heir.means(to.String()) {
		return true
	}
	j.leaving = j.leaving || restarts
	return false
}

// lookSteps are how often begin is tried while the machine looks by itself: 10 s in all.
const lookSteps = 100

// beginForPeople is begin that waits for the end of a look that the machine takes by
// itself: it does so after somebody checked, of all times, and nobody has to know of it.
func (u *Updater) beginForPeople(how How, wish Request, also func(Progress)) (*job, error) {
	for n := 0; ; n++ {
		j, err := u.begin(how, wish, also)
		if err == nil || n == lookSteps || !u.looks() {
			return j, err
		}
		time.Sleep(u.o.again / 10)
	}
}

// looks tells whether the machine only looks into the repository, by itself.
func (u *Updater) looks() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.job != nil && u.job.how == Automatic && (u.progress.Phase == "" || u.progress.Phase == "checking")
}

// means tells whether what is wanted may be this version; of an unknown one ("") nobody can tell yet.
func (r Request) means(target string) bool {
	return r.Version == nil || target == "" || r.Version.String() == target
}

// same tells whether two people want the same of a release.
func (r Request) same(other Request) bool {
	return r.StageOnly == other.StageOnly && (r.Version == nil || other.means(r.Version.String()))
}

// join follows what goes on as long as it is what r wants, and tells also how far that is. It returns over
// when there is nothing left to do: r was done with it, or is refused. Else r is to be begun: what the machine
// did by itself has ended, and has left what it fetched on the disk.
func (u *Updater) join(r *Request, also func(Progress)) (over bool, err error) {
	u.mu.Lock()
	j := u.job
	u.mu.Unlock()
	if j == nil {
		return false, nil
	}
	for said := (Progress{}); ; time.Sleep(max(u.o.again/10, time.Millisecond)) {
		u.mu.Lock()
		err := u.joinsLocked(j, r)
		p, ended := u.progress, u.job != j
		u.mu.Unlock()
		if err != nil {
			return true, err
		}
		if ended && p.Phase != "rebooting" { // it is that of another one, or nobody's
			break
		}
		if also != nil && p != said {
			also(p.joined(j, said))
			said = p
		}
		if ended {
			break
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return j.how == ByHand || j.leaving && j.err == nil, j.err
}

// joined says, in the first progress that is told, that somebody else began.
func (p Progress) joined(j *job, said Progress) Progress {
	began := j.begun.UTC().Format("15:04:05 MST")
	switch {
	case said != (Progress{}) || p.Message != "":
	case j.how == Automatic:
		p.Message = "the machine began by itself at " + began + ", and goes on as you asked"
	case j.how == ByHand:
		p.Message = "begun at " + began + " by " + j.wish.By
	}
	return p
}

// joinsLocked makes r the heir of what the machine does by itself. An error says why r
// cannot join: people do not take over from people, but may want the same.
func (u *Updater) joinsLocked(j *job, r *Request) error {
	target := u.progress.Target
	switch {
	case u.job != j, j.how == Looking:
	case j.how != Automatic && j.how != ByHand:
		return u.conflictLocked("ask again when it has ended")
	case !r.means(target):
		return u.conflictLocked("ask again for " + r.Version.String() + " when it has ended, or without a version to join it")
	case j.how == ByHand && !r.same(j.wish):
		return u.conflictLocked("ask again when it has ended; only the same wish joins it (" + j.wish.wants() + ")")
	case j.heir != nil && !r.same(*j.heir):
		return u.conflictLocked("somebody waits for it already (" + j.heir.By + ", " + j.heir.wants() + ")")
	case j.leaving && r.StageOnly:
		return u.conflictLocked("the machine restarts into it now")
	case j.how == Automatic && j.heir == nil:
		j.heir = r
	}
	return nil
}

// wants is a wish in words.
func (r Request) wants() string {
	what := "the release that is offered"
	if r.Version != nil {
		what = r.Version.String()
	}
	if r.StageOnly {
		return what + " without a restart"
	}
	return what + " with a restart"
}
