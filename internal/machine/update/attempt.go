// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"wherry.example/wherry/release"
)

// What callers are told.
var (
	errClosing = errdefs.ErrUnavailable.WithMessage("the machine is shutting down: ask again when it is back")
	errNoURL   = errdefs.ErrFailedPrecondition.WithMessage("the configuration names no repository (updates.url): give it one, or apply a bundle")
	errFull    = errdefs.ErrResourceExhausted
)

// Request is what somebody wants.
type Request struct {
	Version   *release.Version // nil: what the channel, the pin or the bundle says
	StageOnly bool             // no reboot
	Retry     bool             // also what did not work here
	By        string           // who asks
}

// Apply takes a release from the repository, whatever mode, window and pause say; where the machine is
// at that already it joins. It returns when the machine is about to restart. That the caller goes away does not end it.
func (u *Updater) Apply(r Request, also func(Progress)) error {
	for {
		j, err := u.begin(ByHand, r, also)
		if err == nil {
			return j.end(u.fromWeb(j, r))
		}
		if !errdefs.IsConflict(err) || u.current().State == release.StateTrying {
			return err
		}
		if over, err := u.join(&r, also); over {
			return err
		}
	}
}

// fromWeb brings a release from the repository of the configuration.
func (u *Updater) fromWeb(j *job, r Request) error {
	from, err := u.web()
	if err != nil {
		return err
	}
	return u.attempt(u.alive, j, from, r)
}

// attempt brings the release that was asked for, and restarts into it.
func (u *Updater) attempt(ctx context.Context, j *job, from origin, r Request) error {
	j.tell(Progress{Phase: "checking"})
	repo, err := u.refresh(ctx, from)
	if err != nil {
		return err
	}
	rel, found, why := u.choose(repo, from, r.Version, r.Retry)
	if !found {
		return errdefs.ErrFailedPrecondition.WithMessage(why)
	}
	return u.take(ctx, j, repo, rel, r.StageOnly)
}

// take makes the machine go to a release that was chosen.
func (u *Updater) take(ctx context.Context, j *job, repo *release.Repository, rel release.Release, stageOnly bool) error {
	if r := u.current(); r.State == release.StateStaged && r.Attempt.To == rel.Version { // it is there already
		if err := u.takeOver(j); err != nil {
			return err
		}
		return u.finish(j, rel, stageOnly)
	}
	// Programs that tell another version than their file: an attempt at what runs could not be taken back.
	if running, err := u.o.Slots.Running(); err == nil && running.Version == rel.Version.String() {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("%s runs already, though its programs say that they are %s", rel.Version, u.version))
	}
	f, err := u.fetch(ctx, j, repo, rel)
	if err != nil {
		return err
	}
	defer f.osFile.Close()
	if err := ctx.Err(); err != nil {
		return err
	}
	if j.leaves(rel.Version, false) {
		return nil // what was fetched stays for who goes on with it
	}
	// From here on it goes to its end: a shutdown waits.
	if err := u.stage(context.WithoutCancel(ctx), j, f); err != nil {
		return err
	}
	u.warn("remove the download", os.RemoveAll(filepath.Join(u.o.Dir, "download")))
	return u.finish(j, rel, stageOnly)
}

// takeOver makes what the machine staged by itself an attempt of who asks for it: when the machine
// restarts is their matter from now on.
func (u *Updater) takeOver(j *job) error {
	return u.amend(func(r *Record) {
		if r.Attempt.How == Automatic && j.how == ByHand {
			r.Attempt.How, r.Attempt.By = j.how, j.wish.By
		}
	})
}

// finish restarts, unless that is left to somebody.
func (u *Updater) finish(j *job, rel release.Release, stageOnly bool) error {
	if j.leaves(rel.Version, !stageOnly) {
		return nil
	}
	p := Progress{Phase: "staged", Target: rel.Version.String()}
	if stageOnly {
		p.Message = "the next restart tries it"
		j.tell(p)
		return nil
	}
	p.Phase, p.RebootAt = "rebooting", u.o.Now()
	j.tell(p)
	return u.reboot()
}

// Bounds of a bundle that somebody sends.
const (
	maxBundleBytes = 2 << 30
	bundleName     = "bundle.wherry"
)

// applyBundle takes a release out of a bundle, which is kept on the state disk while it is
// needed. size is what the sender says, 0 if nothing.
func (u *Updater) applyBundle(r Request, size int64, data io.Reader, also func(Progress)) (err error) {
	j, err := u.beginForPeople(Bundle, r, also)
	if err != nil {
		return err
	}
	defer func() { j.end(err) }()
	file := filepath.Join(u.o.Dir, bundleName)
	defer os.Remove(file)
	if err := u.spool(j, file, size, data); err != nil {
		return err
	}
	return u.bundle(u.alive, j, file, r)
}

// spool writes what comes to a file.
func (u *Updater) spool(j *job, file string, size int64, data io.Reader) (err error) {
	if size > maxBundleBytes || size < 0 {
		return errFull.WithMessage(fmt.Sprintf("a bundle of %d bytes: the limit is %d", size, int64(maxBundleBytes)))
	}
	if err := u.room(size); err != nil {
		return err
	}
	if err := os.MkdirAll(u.o.Dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("keep the bundle: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	limit := int64(maxBundleBytes)
	if size > 0 {
		limit = size
	}
	const piece = 8 << 20
	for n := int64(0); ; {
		got, err := io.CopyN(f, data, min(piece, limit+1-n))
		n += got
		j.tell(Progress{Phase: "downloading", Done: n, Total: size, Message: "receiving the bundle"})
		switch {
		case n > limit:
			return errFull.WithMessage(fmt.Sprintf("the bundle is longer than %d bytes", limit))
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("keep the bundle: %w", err)
		}
		if err := u.room(0); err != nil {
			return err
		}
	}
}

// bundle takes a release out of a bundle.
func (u *Updater) bundle(ctx context.Context, j *job, file string, r Request) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := size(f)
	if err != nil {
		return err
	}
	if n > maxBundleBytes { // on a stick; what is sent was refused before
		return errFull.WithMessage(fmt.Sprintf("a bundle of %d bytes: the limit is %d", n, int64(maxBundleBytes)))
	}
	b, err := release.OpenBundle(f, n)
	if err != nil {
		return errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	return u.attempt(ctx, j, origin{b, true, b.Has}, r)
}

// goBack restarts into the release before this one, which is then left alone
// until a newer one is there. It returns the version to which the machine goes.
func (u *Updater) goBack(ctx context.Context, by string) (release.Version, error) {
	trying := u.current().State == release.StateTrying
	if !trying {
		j, err := u.begin(Rollback, Request{By: by}, nil)
		if err != nil {
			return release.Version{}, err
		}
		defer j.end(nil)
	}
	if err := u.enter(); err != nil {
		return release.Version{}, err
	}
	defer u.writing.Done()
	s, err := u.seen(ctx, u.current())
	if err != nil {
		return release.Version{}, err
	}
	to, ok := s.other()
	if !ok {
		return to, errdefs.ErrFailedPrecondition.WithMessage("there is no other release on the boot partition to go back to")
	}
	d, err := u.departure(ctx, s, to, by, trying)
	if err != nil {
		return to, err
	}
	if trying {
		u.mu.Lock()
		if u.cancelTry != nil {
			u.cancelTry()
		}
		u.mu.Unlock()
	}
	u.carryOut(context.WithoutCancel(ctx), d)
	return to, nil
}

// byHandReason says nothing of who it was: that is in the machine's log.
const byHandReason = "rolled back by hand"

// departure is the record of an attempt that somebody ends: the running release is left, because they say so.
func (u *Updater) departure(ctx context.Context, s Seen, to release.Version, by string, trying bool) (Decision, error) {
	r := clone(u.current())
	if trying {
		u.mu.Lock()
		r.Attempt.Failed, r.Attempt.GivenUp, r.Attempt.Checks = byHandReason, true, u.checksLocked()
		r.Attempt.Worked += u.trial.worked(s.Now)
		u.mu.Unlock()
		return leave(r, s), nil
	}
	if err := u.unstage(); err != nil { // the loader would take it
		return Decision{}, err
	}
	left, err := release.ParseVersion(s.Running.Version) // what is started or not are files
	if err != nil {
		return Decision{}, fmt.Errorf("what runs is no release: %w", err)
	}
	r = u.current()
	r.Attempt = &Attempt{
		From: to, To: left, How: Rollback, By: by, Begun: s.Now, Boot: s.Boot, Baseline: u.baseline(ctx), Down: u.o.Now(), Failed: byHandReason, GivenUp: true,
	}
	return leave(r, s), nil
}

// Pause keeps the machine from updating by itself until then; zero: until Resume.
func (u *Updater) Pause(until time.Time) error {
	if !until.IsZero() && !until.After(u.o.Now()) {
		return errdefs.ErrInvalidArgument.WithMessage("the pause would end before it begins: want a time that is to come")
	}
	err := u.amend(func(r *Record) { r.Paused = &Pause{Until: until} })
	u.kick()
	return err
}

// Resume ends a pause.
func (u *Updater) Resume() error {
	err := u.amend(func(r *Record) { r.Paused = nil })
	u.kick()
	return err
}
