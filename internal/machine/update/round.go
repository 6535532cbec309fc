// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"context"
	"errors"
	"time"

	"wherry.example/wherry/release"
)

// clockPoll is how soon a repository that was refused because of the clock is asked again when the clock was set.
const clockPoll = 20 * time.Second

// round looks once into the repository, does what policy says, and returns how long to wait.
func (u *Updater) round(ctx context.Context) time.Duration {
	defer u.report(ctx)
	u.mu.Lock()
	s, failures := u.settings, u.looked.failures
	u.mu.Unlock()
	if s.URL == "" {
		why := "no repository is configured (updates.url)"
		if _, err := rootRole(u.o.RootFile); err != nil { // with one it would not help
			why = err.Error()
		}
		u.note(nil, 0, why, nil)
		return pollEvery
	}
	if u.current().State == release.StateStaged {
		return u.restartStaged(s)
	}
	j, err := u.begin(Automatic, Request{By: "automatic"}, nil)
	if err != nil { // somebody is at it, or the machine goes down
		return firstRetry
	}
	acts, err := u.lookAndAct(ctx, j, s)
	j.end(err)
	if ctx.Err() != nil {
		return pollEvery
	}
	if err != nil {
		u.o.Log.Warn("update", "error", err)
		if !u.o.ClockSet() && errors.Is(err, release.ErrExpired) {
			return clockPoll
		}
		return pause(failures + 1)
	}
	return u.until(acts)
}

// until waits for the regular look, or for the machine's own time if that is sooner.
func (u *Updater) until(acts time.Time) time.Duration {
	wait := pause(0)
	if left := acts.Sub(u.o.Now()); !acts.IsZero() && left < wait {
		return max(left, shortest)
	}
	return wait
}

// restartStaged restarts into what somebody staged before, if the machine takes
// updates by itself and it is its time.
func (u *Updater) restartStaged(s Settings) time.Duration {
	u.mu.Lock()
	r, id := u.record, u.id
	u.mu.Unlock()
	if r.Attempt.How != Automatic {
		return pollEvery
	}
	n := s.next(id, release.Release{Version: r.Attempt.To, Published: r.Attempt.Published}, r.Paused, u.o.Now())
	if n.Apply {
		u.warn("restart", u.reboot())
	}
	return u.until(n.At)
}

// lookAndAct returns when the machine goes on by itself.
func (u *Updater) lookAndAct(ctx context.Context, j *job, s Settings) (time.Time, error) {
	from, err := u.web()
	var repo *release.Repository
	if err == nil {
		j.tell(Progress{Phase: "checking"})
		repo, err = u.refresh(ctx, from)
	}
	if err != nil {
		u.note(nil, 0, "", err)
		return time.Time{}, err
	}
	rel, found, why := u.choose(repo, from, nil, false)
	if !found {
		u.note(nil, 0, why, nil)
		return time.Time{}, nil
	}
	n := s.next(u.id, rel, u.current().Paused, u.o.Now())
	u.note(&rel, u.deltaBytes(rel), n.Why, nil)
	u.acts(n.At)
	switch {
	case n.Apply:
		err = u.take(ctx, j, repo, rel, false)
	case n.Download:
		var f fetched
		if f, err = u.fetch(ctx, j, repo, rel); err == nil {
			err = f.osFile.Close()
		}
	}
	if err != nil {
		u.note(&rel, u.deltaBytes(rel), n.Why, err)
	}
	return n.At, err
}

func (u *Updater) deltaBytes(rel release.Release) int64 {
	if u.o.Deltas == nil {
		return 0
	}
	d, ok := u.o.Deltas.Find(rel, u.version)
	if !ok {
		return 0
	}
	return d.Bytes
}

// note remembers what a look brought. An error that came after the repository was read keeps the offer.
func (u *Updater) note(offer *release.Release, delta int64, why string, err error) {
	u.mu.Lock()
	l := &u.looked
	l.offer, l.delta, l.why, l.err, l.acts = offer, delta, why, "", time.Time{}
	if err != nil {
		l.err = bounded(err.Error(), maxReason)
		l.failures++
	} else {
		l.failures = 0
	}
	if err == nil || offer != nil {
		l.at = u.o.Now()
	}
	u.mu.Unlock()
	u.tellBoard()
}

func (u *Updater) acts(at time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.looked.acts = at
}

// Check looks into the repository now, and changes nothing.
func (u *Updater) Check(ctx context.Context) (err error) {
	j, err := u.beginForPeople(Looking, Request{}, nil)
	if err != nil {
		return err
	}
	defer func() { j.end(err) }()
	from, err := u.web()
	if err != nil {
		return err
	}
	j.tell(Progress{Phase: "checking"})
	repo, err := u.refresh(ctx, from)
	if err != nil {
		u.note(nil, 0, "", err)
		return err
	}
	rel, found, why := u.choose(repo, from, nil, false)
	if !found {
		u.note(nil, 0, why, nil)
		return nil
	}
	u.mu.Lock()
	s := u.settings
	u.mu.Unlock()
	n := s.next(u.id, rel, u.current().Paused, u.o.Now())
	u.note(&rel, u.deltaBytes(rel), n.Why, nil)
	u.acts(n.At)
	u.kick()
	return nil
}

// maxReportReason is what the status page takes.
const maxReportReason = 500

// report tells the status page how this machine fares, if its owner wants that and it does not know yet.
func (u *Updater) report(ctx context.Context) {
	u.mu.Lock()
	s, r, id := u.settings, u.record, u.id
	u.mu.Unlock()
	if s.URL == "" || !s.Report || id == "" {
		return
	}
	news := reportOf(r, u.version, s.Channel)
	news.ID, news.Edition, news.Arch = release.ReportID(id), u.o.Edition, u.o.Arch
	if r.Reported != nil && sameReport(*r.Reported, news) {
		return
	}
	h, err := u.server()
	if err == nil {
		err = h.Report(ctx, news)
	}
	if err != nil {
		u.o.Log.Info("update: tell the status page", "error", err)
		return
	}
	u.warn("", u.amend(func(r *Record) { r.Reported = &news }))
}

func reportOf(r Record, version release.Version, channel release.Channel) release.Report {
	news := release.Report{Version: version, Channel: channel, State: release.StateIdle}
	last := r.last()
	left, byHand := last.byHand()
	switch {
	case r.under() && r.State != release.StateIdle:
		to := r.Attempt.To
		news.State, news.Target = r.State, &to
	case last.Result == Committed && last.To == version:
		news.State = release.StateCommitted
	case last.Result == RolledBack && byHand: // whatever the record says of it
		news.State, news.Target, news.ByHand, news.Reason = release.StateRolledBack, &left, true, byHandReason
	case (last.Result == RolledBack || last.Result == Stayed) && !byHand:
		news.State, news.Target, news.Reason = release.StateRolledBack, &left, bounded(last.Reason, maxReportReason)
	}
	return news
}

func sameReport(a, b release.Report) bool {
	target := func(r release.Report) string {
		if r.Target == nil {
			return ""
		}
		return r.Target.String()
	}
	same := target(a) == target(b)
	a.Target, b.Target = nil, nil
	return same && a == b
}
