// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"context"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/release"
)

// This file answers the API: see api/wherry/v1/update.proto.

// Update tells what runs, what is under way, and what comes next.
func (u *Updater) Update(context.Context) (*wherryv1.GetUpdateResponse, error) {
	r := &wherryv1.GetUpdateResponse{Version: u.o.Version}
	u.tellTrust(r)
	u.mu.Lock()
	u.tellLooked(r)
	u.tellRecord(r)
	u.mu.Unlock()
	if u.o.Verified != nil {
		r.Trust = u.o.Verified()
	}
	if r.Unavailable == "" {
		r.Slots = u.tellSlots()
	}
	return r, nil
}

// tellLooked fills in policy and what the last look brought.
func (u *Updater) tellLooked(r *wherryv1.GetUpdateResponse) {
	s, l, now := u.settings, u.looked, u.o.Now()
	r.Policy = s.tell()
	r.Why, r.CheckError, r.Offer = l.why, l.err, offer(l)
	r.CheckedAt, r.NextCheckAt = stamp(l.at), stamp(l.next)
	if s.Window != nil {
		start, end := s.Window.around(now)
		r.WindowStart, r.WindowEnd = stamp(start), stamp(end)
	}
	if u.impossible != nil {
		r.Unavailable = u.impossible.Error()
	}
}

// tellRecord fills in where the state machine is.
func (u *Updater) tellRecord(r *wherryv1.GetUpdateResponse) {
	rec, p := u.record, u.progress
	r.Phase, r.Target = "idle", p.Target
	switch {
	case p.Phase != "":
		r.Phase, r.Progress = p.Phase, p.tell()
	case rec.under() && rec.State == release.StateStaged:
		r.Phase, r.Target = "staged", rec.Attempt.To.String()
	}
	if rec.Paused.holds(u.o.Now()) {
		r.Paused, r.PausedUntil = true, stamp(rec.Paused.Until)
	}
	if r.Phase == "trying" {
		r.Trial = u.trial.tell(u.o.Now())
	}
	if u.returning != nil {
		r.Returning = u.returning.tell(u.o.Now())
	}
	if all := rec.tell(1); len(all) > 0 {
		r.Last = all[0]
	}
	for _, a := range rec.Avoid {
		r.Avoided = append(r.Avoided, a.Version.String())
		r.LeftAlone = append(r.LeftAlone, &wherryv1.AvoidedRelease{Version: a.Version.String(), ByHand: a.ByHand, Reason: a.Reason, At: stamp(a.At)})
	}
}

func (s Settings) tell() *wherryv1.UpdatePolicy {
	p := &wherryv1.UpdatePolicy{Url: s.URL, Channel: string(s.Channel), Pin: s.Updates.Pin, Mode: s.Mode, Report: s.Report}
	if s.Window != nil {
		p.Window = s.Window.text
	}
	if s.Spread > 0 {
		p.Spread = durationpb.New(s.Spread)
	}
	return p
}

func offer(l look) *wherryv1.UpdateOffer {
	if l.offer == nil {
		return nil
	}
	f, _ := l.offer.File(release.OSFile)
	return &wherryv1.UpdateOffer{Version: l.offer.Version.String(), Bytes: uint64(f.Bytes), DeltaBytes: uint64(l.delta), PublishedAt: stamp(l.offer.Published)}
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func (p Progress) tell() *wherryv1.UpdateProgress {
	return &wherryv1.UpdateProgress{
		Phase: p.Phase, Target: p.Target, Bytes: uint64(p.Done), TotalBytes: uint64(p.Total), Delta: p.Delta, Message: p.Message, RebootAt: stamp(p.RebootAt),
	}
}

func (t trialStatus) tell(now time.Time) *wherryv1.UpdateTrial {
	out := &wherryv1.UpdateTrial{StartedAt: stamp(t.began), EndsAt: stamp(t.ends)}
	amiss := "failed"
	if now.Before(t.ends) {
		amiss = "waiting"
	}
	out.Checks = tellChecks(t.Checks, amiss)
	if t.Needed > 0 {
		out.Held, out.Needed = durationpb.New(t.Held), durationpb.New(t.Needed)
	}
	return out
}

func tellChecks(checks []Check, amiss string) (out []*wherryv1.UpdateCheck) {
	for _, c := range checks {
		state := "passed"
		if !c.Well {
			state = amiss
		}
		out = append(out, &wherryv1.UpdateCheck{Name: c.Name, State: state, Message: c.Message})
	}
	return out
}

// tell is the newest attempts, at first the one that is going on.
func (r Record) tell(limit int) (out []*wherryv1.UpdateRecord) {
	if a := r.Attempt; a != nil {
		state := string(r.State)
		if r.State == release.StateIdle { // it is in the record before its first byte is on the boot partition
			state = "staging"
		}
		out = append(out, &wherryv1.UpdateRecord{
			From: a.From.String(), To: a.To.String(), Source: string(a.How), By: a.By, State: state, Reason: a.Failed,
			ByHand: a.GivenUp, StartedAt: stamp(a.Begun), Delta: a.Delta, DownloadedBytes: uint64(a.Fetched), Bytes: uint64(a.File.Bytes), DeltaRefused: a.Note,
			Checks: tellChecks(a.Checks, "failed"),
		})
	}
	for _, e := range r.History[:min(len(r.History), max(0, limit-len(out)))] {
		out = append(out, e.tell())
	}
	return out
}

// states are the results as the API names them.
var states = map[Result]string{Committed: "committed", RolledBack: "rolled-back", Lost: "failed", Stayed: "failed"}

func (e Entry) tell() *wherryv1.UpdateRecord {
	_, byHand := e.byHand()
	r := &wherryv1.UpdateRecord{
		From: e.From.String(), To: e.To.String(), Source: string(e.How), By: e.By, State: states[e.Result], Reason: e.Reason,
		ByHand: byHand, StartedAt: stamp(e.Begun), EndedAt: stamp(e.Ended), Delta: e.Delta, DownloadedBytes: uint64(e.Fetched), Bytes: uint64(e.Bytes), DeltaRefused: e.Note,
		Checks: tellChecks(e.Checks, "failed"),
	}
	if e.Downtime > 0 {
		r.Downtime = durationpb.New(e.Downtime)
	}
	return r
}

// tellTrust says whose releases are believed: by the root role of the image, or one that it has led to.
func (u *Updater) tellTrust(r *wherryv1.GetUpdateResponse) {
	data, err := os.ReadFile(u.o.RootFile)
	if err != nil {
		return
	}
	image, err := release.ParseRoot(data)
	if err != nil {
		r.RootRole = "not usable: " + err.Error()
		return
	}
	now, err := release.Trusted(data, u.links())
	if err != nil {
		now = image
	}
	r.RootRole, r.RootVersion, r.ImageRootVersion = now.String(), now.Version, image.Version
}

// tellSlots reads the boot partition.
func (u *Updater) tellSlots() (out []*wherryv1.UpdateSlot) {
	slots, err := u.o.Slots.List()
	if err != nil {
		u.o.Log.Warn("update: list the slots", "error", err)
		return nil
	}
	next := slices.IndexFunc(slots, func(s Slot) bool { return !s.Bad }) // the newest first
	for i, s := range slots {
		out = append(out, &wherryv1.UpdateSlot{
			Version: s.Version, File: s.File, Bytes: uint64(s.Bytes), Running: s.Running, Trial: s.Trial,
			TriesLeft: uint32(s.TriesLeft), TriesDone: uint32(s.TriesDone), Bad: s.Bad, Next: i == next,
		})
	}
	return out
}

// CheckUpdate asks the repository now.
func (u *Updater) CheckUpdate(ctx context.Context) (*wherryv1.CheckUpdateResponse, error) {
	if err := u.Check(ctx); err != nil {
		return nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return &wherryv1.CheckUpdateResponse{Offer: offer(u.looked), Why: u.looked.why}, nil
}

// ApplyUpdate takes a release from the repository.
func (u *Updater) ApplyUpdate(_ context.Context, who string, req *wherryv1.ApplyUpdateRequest, send func(*wherryv1.UpdateProgress) error) error {
	r, err := request(who, req.Version, req.StageOnly, req.Retry)
	if err != nil {
		return err
	}
	also, done := newest(send)
	defer done()
	return u.Apply(r, also)
}

// ApplyBundle takes a release from a bundle that the caller sends.
func (u *Updater) ApplyBundle(_ context.Context, who string, start *wherryv1.ApplyBundleStart, bundle io.Reader, send func(*wherryv1.UpdateProgress) error) error {
	r, err := request(who, start.Version, start.StageOnly, start.Retry)
	if err != nil {
		return err
	}
	also, done := newest(send)
	defer done()
	return u.applyBundle(r, int64(min(start.Bytes, maxBundleBytes+1)), bundle, also)
}

func request(who, version string, stageOnly, retry bool) (Request, error) {
	r := Request{StageOnly: stageOnly, Retry: retry, By: who}
	if version == "" {
		return r, nil
	}
	v, err := release.ParseVersion(version)
	if err != nil {
		return r, errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	r.Version = &v
	return r, nil
}

// newest passes progress on without ever waiting for who reads it: what comes
// while a message is being sent is told later, and only the last of it.
func newest(send func(*wherryv1.UpdateProgress) error) (also func(Progress), done func()) {
	var latest sync.Mutex
	var waiting *Progress
	wake, end := make(chan struct{}, 1), make(chan struct{})
	also = func(p Progress) {
		latest.Lock()
		waiting = &p
		latest.Unlock()
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	go func() {
		defer close(end)
		for range wake {
			latest.Lock()
			p := waiting
			waiting = nil
			latest.Unlock()
			if p != nil && send(p.tell()) != nil {
				return // the caller is gone
			}
		}
	}()
	return also, func() {
		close(wake)
		<-end // nobody else waits: a restart has been asked for already
	}
}

// PauseUpdates keeps the machine from updating by itself.
func (u *Updater) PauseUpdates(_ context.Context, req *wherryv1.PauseUpdatesRequest) error {
	var until time.Time
	if req.Until != nil {
		if err := req.Until.CheckValid(); err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(err.Error())
		}
		until = req.Until.AsTime()
	}
	return u.Pause(until)
}

// ResumeUpdates ends a pause.
func (u *Updater) ResumeUpdates(context.Context) error { return u.Resume() }

// UpdateHistory is what was tried, newest first.
func (u *Updater) UpdateHistory(_ context.Context, limit uint32) ([]*wherryv1.UpdateRecord, error) {
	if limit == 0 || limit > maxHistory+1 {
		limit = maxHistory + 1
	}
	return u.current().tell(int(limit)), nil
}

// Rollback goes back to the release before this one.
func (u *Updater) Rollback(ctx context.Context, who string) (*wherryv1.RollbackResponse, error) {
	to, err := u.goBack(ctx, who)
	if err != nil {
		return nil, err
	}
	return &wherryv1.RollbackResponse{Version: to.String(), RebootAt: stamp(u.o.Now())}, nil
}
