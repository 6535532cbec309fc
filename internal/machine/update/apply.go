// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"wherry.example/wherry/release"
)

// carryOut does what was decided, in the order that Decision tells. It is false
// when the machine goes down, or ctx ended.
func (u *Updater) carryOut(ctx context.Context, d Decision) bool {
	before := u.current()
	if d.Say != "" {
		u.o.Log.Info("update: " + d.Say)
		u.o.Console("update", firstLine(d.Say))
	}
	if d.Remove != "" {
		if err := u.o.Slots.Remove(d.Remove); err != nil {
			u.o.Log.Warn("update: take away what was not written to its end", "error", err)
			d.Record = before // the next start finds it again
		}
	}
	if d.Retire != "" && !d.Reboot {
		u.warn("keep the loader from starting "+d.Retire, u.o.Slots.Retire(d.Retire))
	}
	if d.Measure != nil && !d.Measure.Down.IsZero() { // before anybody is told that it has ended
		u.setReturning(&trialStatus{began: u.o.Now(), ends: u.o.Now().Add(u.limit())})
	}
	u.hold(d.Record)
	u.publish(before, d.Record)
	if d.Bless {
		u.warn("bless the release that was committed", u.o.Slots.Bless())
	}
	if d.Settled {
		u.settled()
	}
	if d.Measure != nil {
		u.side.Go(func() { u.measure(ctx, *d.Measure) })
	}
	switch {
	case d.Reboot:
		return u.depart(d.Retire)
	case d.Try:
		return u.try(ctx)
	}
	return true
}

// hold makes r the record. What was decided holds for this boot also when it cannot be written down: the next start decides anew.
func (u *Updater) hold(r Record) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.keepLocked(r); err != nil {
		u.o.Log.Warn("update", "error", err)
		u.record = r
	}
	u.reconciled = true
}

func (u *Updater) warn(doing string, err error) {
	if err == nil {
		return
	}
	if doing != "" {
		err = fmt.Errorf("%s: %w", doing, err)
	}
	u.o.Log.Warn("update", "error", err)
}

// publish tells of a change as an event.
func (u *Updater) publish(before, after Record) {
	switch {
	case len(after.History) > 0 && (len(before.History) == 0 || !before.last().Ended.Equal(after.last().Ended)):
		e := after.last()
		u.o.Event(string(after.State), e.To.String(), bounded(string(e.Result)+because(e.Reason), 1000))
	case after.Attempt != nil && after.State != before.State:
		u.o.Event(string(after.State), after.Attempt.To.String(), "")
	}
	u.tellBoard()
	u.kick() // the status page wants to hear
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// depart leaves the running release for the other one. It is false: the
// machine goes down.
func (u *Updater) depart(version string) bool {
	u.setProgress(Progress{Phase: "rolling-back", Target: version})
	err := u.attempts(3, func() error { return u.o.Slots.Retire(version) })
	// If that failed, the loader's count has the same end, some restarts later.
	u.warn("keep the loader from starting "+version, err)
	u.warn("restart", u.o.Reboot())
	return false
}

// attempts repeats what can fail for a moment.
func (u *Updater) attempts(n int, f func() error) error {
	for ; ; n-- {
		err := f()
		if err == nil || n <= 1 {
			return err
		}
		time.Sleep(u.o.again)
	}
}

// try waits for the machine's work to be well, and then commits the release or leaves it.
func (u *Updater) try(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	u.mu.Lock()
	a, limit := u.record.Attempt, u.settings.Trial.EffectiveLimit()
	u.cancelTry = cancel
	u.trial = trialStatus{began: u.o.Now(), ends: u.o.Now().Add(limit)}
	u.mu.Unlock()
	u.setProgress(Progress{Phase: "trying", Target: a.To.String()})
	u.askForTime(limit)
	u.o.Board.Set(boardLine, true, fmt.Sprintf("%s is on trial: it stays when all is well again within %s", a.To, brief(limit)))
	err := u.o.Trial.Wait(ctx, a.Baseline, limit, func(h Health) {
		u.mu.Lock()
		u.trial.Health, u.trial.looked = h, u.o.Now()
		u.mu.Unlock()
	})
	if ctx.Err() != nil {
		return false // a shutdown, or somebody rolls back
	}
	now, ended := u.o.Now(), *a
	ended.Worked += u.trial.worked(now)
	u.warn("", u.amend(func(r *Record) { r.Attempt.Checks, r.Attempt.Worked = u.checksLocked(), ended.Worked }))
	if err == nil {
		err = u.bless(downtime(ended, now))
	}
	if err != nil {
		return u.giveUp(ctx, err.Error())
	}
	return true
}

// askForTime tells PID 1 how long the trial may take.
func (u *Updater) askForTime(limit time.Duration) {
	seconds := strconv.Itoa(int(limit / time.Second))
	u.warn("tell PID 1 of the trial", os.WriteFile(filepath.Join(u.o.RunDir, trialFile), []byte(seconds), 0o644))
}

// checksLocked is how the trial's checks fare, for the record.
func (u *Updater) checksLocked() []Check { return kept(u.trial.Checks) }

// worked is for how long the work has run by now in what is on trial.
func (t trialStatus) worked(now time.Time) time.Duration {
	if t.Working == 0 {
		return 0
	}
	return t.Working + max(0, now.Sub(t.looked))
}

// bless makes the running release the one that is started for good.
func (u *Updater) bless(down time.Duration) error {
	if err := u.attempts(3, u.o.Slots.Bless); err != nil {
		return fmt.Errorf("all was well, and the boot partition could not be written: %w", err)
	}
	u.setProgress(Progress{})
	before := u.current()
	d := commit(clone(before), Seen{Now: u.o.Now()})
	d.Record.History[0].Downtime = down
	u.mu.Lock()
	u.cancelTry = nil
	u.mu.Unlock()
	u.carryOut(context.Background(), d) // neither Try nor Reboot
	return nil
}

func clone(r Record) Record {
	if r.Attempt != nil {
		a := *r.Attempt
		r.Attempt = &a
	}
	return r
}

// maxDowntime is more than any real one: what is longer is a clock that was set.
const maxDowntime = 24 * time.Hour

// downtime is from when the work was stopped until now, without the time for which it ran. It is zero when it is not known.
func downtime(a Attempt, now time.Time) time.Duration {
	d := now.Sub(a.Down) - a.Worked
	if a.Down.IsZero() || d <= 0 || d > maxDowntime {
		return 0
	}
	return d.Round(time.Millisecond)
}

// giveUp records why the running release is left, and leaves it.
func (u *Updater) giveUp(ctx context.Context, reason string) bool {
	u.warn("", u.amend(func(r *Record) { r.Attempt.Failed = bounded(reason, maxReason) }))
	r := clone(u.current())
	if r.Attempt.Failed == "" { // it could not be written down, and holds all the same
		r.Attempt.Failed = bounded(reason, maxReason)
	}
	s, err := u.seen(ctx, r)
	if err != nil { // what is left is the loader's count
		u.warn("leave "+r.Attempt.To.String(), err)
		return u.depart(r.Attempt.To.String())
	}
	return u.carryOut(ctx, leave(r, s))
}

// measure waits until all is well in the release that the machine came back to, to
// tell for how long it was not.
func (u *Updater) measure(ctx context.Context, a Attempt) {
	if a.Down.IsZero() {
		return
	}
	defer u.setReturning(nil)
	said := ""
	var seen trialStatus
	err := u.o.Trial.Return(ctx, a.Baseline, u.limit(), func(h Health) {
		u.mu.Lock()
		seen = trialStatus{u.returning.began, u.returning.ends, u.o.Now(), h}
		u.returning = &seen
		u.mu.Unlock()
		if now := amiss(h.Checks); now != said {
			said = now
			u.o.Log.Info("update: back in the old release", "waits for", now)
		}
	})
	if err != nil {
		if ctx.Err() == nil {
			u.o.Log.Warn("update: the machine went back to its old release, and not all is as before the update", "error", err)
		}
		return
	}
	now := u.o.Now()
	a.Worked += seen.worked(now)
	d := downtime(a, now)
	u.warn("", u.amend(func(r *Record) {
		if len(r.History) == 0 || !r.History[0].Begun.Equal(a.Begun) {
			return
		}
		h := append([]Entry(nil), r.History...) // others read the old one
		h[0].Downtime = d
		r.History = h
	}))
}

func (u *Updater) setReturning(t *trialStatus) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.returning = t
}

// amiss names the checks that do not hold, with what is the matter.
func amiss(checks []Check) string {
	var out []string
	for _, c := range checks {
		if !c.Well {
			out = append(out, c.Name+": "+c.Message)
		}
	}
	return bounded(strings.Join(out, "; "), maxReason)
}

func (u *Updater) limit() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.settings.Trial.EffectiveLimit()
}

func (u *Updater) setProgress(p Progress) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.progress = p
}

// stage writes a verified file to the boot partition and records what the next boot is to prove.
func (u *Updater) stage(ctx context.Context, j *job, f fetched) error {
	if err := u.enter(); err != nil {
		return err
	}
	defer u.writing.Done()
	if err := u.unstage(); err != nil {
		return err
	}
	a := &Attempt{
		From: u.version, To: f.rel.Version, How: j.how, By: j.wish.By, Begun: j.begun, File: f.file, Published: f.rel.Published,
		Fetched: f.bytes, Delta: f.delta, Note: f.note, Baseline: u.baseline(ctx), Boot: u.o.bootID,
	}
	if err := u.amend(func(r *Record) { r.State, r.Attempt = release.StateIdle, a }); err != nil {
		return err
	}
	if err := u.write(ctx, j, f); err != nil {
		return errors.Join(err, u.unstage())
	}
	before := u.current()
	if err := u.amend(func(r *Record) { r.State = release.StateStaged }); err != nil {
		return errors.Join(err, u.unstage())
	}
	u.publish(before, u.current())
	return nil
}

// write makes room on the boot partition and writes the file.
func (u *Updater) write(ctx context.Context, j *job, f fetched) error {
	version := f.rel.Version.String()
	if err := u.makeRoom(version, false); err != nil {
		return err
	}
	put := func() error {
		return u.o.Slots.Stage(ctx, version, f.osFile, func(done, total int64) {
			j.tell(Progress{Phase: "staging", Target: version, Done: done, Total: total})
		})
	}
	err := put()
	if errors.Is(err, ErrNoRoom) { // the release before this one must go
		if err := u.makeRoom(version, true); err != nil {
			return err
		}
		err = put()
	}
	if err != nil {
		return fmt.Errorf("write %s to the boot partition: %w", version, err)
	}
	if err := u.o.Slots.Check(ctx, version, f.file.SHA256); err != nil {
		return fmt.Errorf("what was written to the boot partition is not what was read back: %w", err)
	}
	return nil
}

// makeRoom removes slots for a new one.
func (u *Updater) makeRoom(version string, all bool) error {
	slots, err := u.o.Slots.List()
	if err != nil {
		return fmt.Errorf("list the slots: %w", err)
	}
	for _, v := range surplus(slots, version, all) {
		if err := u.o.Slots.Remove(v); err != nil {
			return fmt.Errorf("make room on the boot partition: %w", err)
		}
	}
	return nil
}

// unstage takes back an attempt that was not started.
func (u *Updater) unstage() error {
	r := u.current()
	if !r.under() {
		return nil
	}
	if err := u.o.Slots.Remove(r.Attempt.To.String()); err != nil {
		return fmt.Errorf("take %s away from the boot partition: %w", r.Attempt.To, err)
	}
	return u.amend(func(r *Record) { r.State, r.Attempt = release.StateIdle, nil })
}

// reboot starts the release that is staged.
func (u *Updater) reboot() error {
	if err := u.enter(); err != nil {
		return err
	}
	defer u.writing.Done()
	if err := u.amend(func(r *Record) { r.Attempt.Down = u.o.Now() }); err != nil {
		return err
	}
	a := u.current().Attempt
	u.o.Console("update", fmt.Sprintf("from %s to %s: restarting", a.From, a.To))
	return u.o.Reboot()
}

// Close refuses new attempts, ends downloads, and waits for what must not be cut. A release that is staged
// is tried by the restart that begins now, whoever wanted it.
func (u *Updater) Close(ctx context.Context) { u.close.Do(func() { u.shut(ctx) }) }

func (u *Updater) shut(ctx context.Context) {
	u.mu.Lock()
	u.closing = true
	u.mu.Unlock()
	u.kill()
	done := make(chan struct{})
	go func() { u.writing.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		return
	}
	r := u.current()
	if r.State != release.StateStaged || !r.Attempt.Down.IsZero() {
		return
	}
	b := u.baseline(ctx)
	u.warn("", u.amend(func(r *Record) {
		r.Attempt.Down = u.o.Now()
		if b != nil {
			r.Attempt.Baseline = b
		}
	}))
}

// enter begins what a shutdown waits for.
func (u *Updater) enter() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closing {
		return errClosing
	}
	u.writing.Add(1)
	return nil
}
