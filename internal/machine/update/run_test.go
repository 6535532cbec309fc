// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/config"
	"wherry.example/wherry/release"
)

func v(s string) release.Version {
	v, err := release.ParseVersion(s)
	if err != nil {
		panic(err)
	}
	return v
}

func apply(u *Updater) error { return u.Apply(Request{By: "test"}, nil) }

// From one release to the next and back by hand.
func TestUpdateAndRollback(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.0.0")
	repo.publish("1.1.0")
	w := repo.world("1.0.0")
	w.start()
	var phases []string
	err := w.life(func(u *Updater) error {
		return u.Apply(Request{By: "test"}, func(p Progress) {
			if len(phases) == 0 || phases[len(phases)-1] != p.Phase {
				phases = append(phases, p.Phase)
			}
			if s, _ := u.Update(t.Context()); p.Phase == "staging" && (s.Last == nil || s.Last.State != "staging" || s.Last.EndedAt != nil) {
				t.Errorf("while it is staged the status says %v", s.Last)
			}
		})
	})
	if err != nil || !w.rebooted {
		t.Fatalf("applied: %v, restarted: %v", err, w.rebooted)
	}
	if want := []string{"checking", "downloading", "staging", "rebooting"}; !slices.Equal(phases, want) {
		t.Errorf("phases %v, want %v", phases, want)
	}
	w.untilQuiet()
	r := w.record()
	e := r.last()
	if w.running != "1.1.0" || r.State != release.StateCommitted || r.under() || e.Result != Committed || e.How != ByHand || e.By != "test" {
		t.Fatalf("%s runs, %+v", w.running, r)
	}
	if e.Downtime < 20e9 || e.Downtime > 60e9 || e.Fetched != int64(len(osFile("1.1.0"))) || e.Delta {
		t.Errorf("downtime %s, fetched %d", e.Downtime, e.Fetched)
	}
	if len(e.Checks) != 1 || !e.Checks[0].Well || e.Checks[0].Name != "containers" {
		t.Errorf("the checks of its trial: %+v", e.Checks)
	}
	if w.slots["1.1.0"].counted {
		t.Error("it is not blessed")
	}
	if want := []string{"staged 1.1.0", "trying 1.1.0", "committed 1.1.0"}; !slices.Equal(w.events, want) {
		t.Errorf("events %v, want %v", w.events, want)
	}

	w.start()
	err = w.life(func(u *Updater) error {
		if err := apply(u); err == nil || !strings.Contains(err.Error(), "1.1.0 runs already") {
			t.Errorf("again: %v", err)
		}
		to, err := u.goBack(t.Context(), "me")
		if to != v("1.0.0") {
			t.Errorf("back to %s", to)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	w.untilQuiet()
	r = w.record()
	e = r.last()
	if w.running != "1.0.0" || r.State != release.StateRolledBack || e.Result != RolledBack || e.From != v("1.1.0") || e.To != v("1.0.0") || e.Reason != "rolled back by hand" || e.By != "me" {
		t.Fatalf("%s runs, %+v", w.running, r)
	}
	w.start()
	w.life(func(u *Updater) error {
		if err := apply(u); err == nil || err.Error() != "somebody went back from 1.1.0 on 2027-02-19: it is left alone until there is a newer release, or: wherry machine update apply --retry" {
			t.Errorf("what was left is taken again: %v", err)
		}
		if err := u.Apply(Request{Retry: true}, nil); err != nil {
			t.Errorf("on request: %v", err)
		}
		return nil
	})
	if w.untilQuiet(); w.running != "1.1.0" {
		t.Errorf("%s runs", w.running)
	}
}

// While what ran before does not run again in the old release, who asks is told.
func TestReturning(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	w := repo.world("1.0.0")
	w.how["1.1.0"] = "unwell"
	w.start()
	if err := w.life(apply); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.life(nil) // the trial
	before, slots := w.record(), maps.Clone(w.slots)
	asked := false
	w.during = func(u *Updater) {
		asked = true
		s, _ := u.Update(t.Context())
		if s.Version != "1.0.0" || s.Phase != "idle" || s.Last.EndedAt == nil || len(s.Returning.GetChecks()) != 1 || s.Returning.Checks[0].State != "waiting" {
			t.Errorf("it says %v", s)
		}
	}
	w.start()
	w.life(nil)
	if e := w.record().last(); !asked || w.running != "1.0.0" || e.Downtime != 0 {
		t.Errorf("asked %v, %s runs, %+v", asked, w.running, e)
	}
	w.slots = slots // the same again, and this time it gets well
	repo.check(before.save(filepath.Join(w.dir, "update", "record.json")))
	w.start()
	w.life(func(u *Updater) error {
		for s, _ := u.Update(t.Context()); s.Returning != nil && t.Context().Err() == nil; s, _ = u.Update(t.Context()) {
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	if e := w.record().last(); !w.returned.Load() || w.running != "1.0.0" || e.Downtime < 20e9 || e.Downtime > 60e9 {
		t.Errorf("%s runs, %+v", w.running, e)
	}
}

// Who goes back while a release is on trial has not found that it does not work.
func TestRollbackOfATrial(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	w := repo.world("1.0.0")
	w.config.Report, w.config.Mode = true, config.UpdatesManual
	var heard release.Report
	repo.attack = func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/report" {
			data, _ := io.ReadAll(r.Body)
			heard, _ = release.ParseReport(data)
		}
		return r.URL.Path == "/report"
	}
	w.start()
	if err := w.life(apply); err != nil {
		t.Fatal(err)
	}
	w.during = func(u *Updater) {
		if _, err := u.goBack(t.Context(), "ada"); err != nil {
			t.Error(err)
		}
	}
	w.untilQuiet()
	e := w.record().last()
	if left, byHand := e.byHand(); w.running != "1.0.0" || e.Result != RolledBack || e.How != ByHand || !byHand || left != v("1.1.0") {
		t.Fatalf("%s runs, %+v", w.running, e)
	}
	w.start()
	w.life(func(u *Updater) error {
		u.round(t.Context())
		if s, _ := u.Update(t.Context()); !s.Last.ByHand || len(s.LeftAlone) != 1 || !s.LeftAlone[0].ByHand || s.LeftAlone[0].Version != "1.1.0" {
			t.Errorf("it says %v", s)
		}
		return nil
	})
	if lines := w.board.List(); len(lines) != 1 || !lines[0].Ready || !strings.Contains(lines[0].Message, "somebody went back from 1.1.0 on") {
		t.Errorf("the board says %+v", lines)
	}
	if to := heard.Target; heard.State != release.StateRolledBack || !heard.ByHand || to == nil || *to != v("1.1.0") || heard.Reason != "rolled back by hand" {
		t.Errorf("the status page heard %+v", heard)
	}
}

// Each kind of broken release ends in the old one, with a reason that tells which.
func TestBroken(t *testing.T) {
	for how, want := range map[string]string{
		"unloadable": "started 3 times, and wherryd never came up",
		"panics":     "the firmware refused the file, or its kernel or PID 1 ended early",
		"damaged":    "the file on the boot partition is damaged",
		"unwell":     "containers: redis is not healthy: connection refused",
		"no state":   "the firmware refused the file, or its kernel or PID 1 ended early",
		"crashes":    "started 3 times, wherryd came up 3 times, and the machine never got well",
	} {
		t.Run(how, func(t *testing.T) {
			repo := newRepository(t)
			repo.publish("1.1.0")
			w := repo.world("1.0.0")
			w.how["1.1.0"] = how
			w.start()
			if err := w.life(apply); err != nil {
				t.Fatal(err)
			}
			w.untilQuiet()
			r := w.record()
			if e := r.last(); w.running != "1.0.0" || r.State != release.StateRolledBack || e.Result != RolledBack || !strings.Contains(e.Reason, want) {
				t.Fatalf("%s runs, %+v", w.running, r)
			}
			if got, trials := w.record().tell(1)[0].Checks, map[bool]int{true: 1}[how == "unwell"]; len(got) != trials {
				t.Errorf("the checks of its trial: %v", got)
			} else if trials > 0 && (got[0].State != "failed" || got[0].Message != "redis is starting") {
				t.Errorf("its check: %v", got[0])
			}
			lines := w.board.List()
			if len(lines) == 0 || lines[0].Ready || !strings.Contains(lines[0].Message, "1.1.0 did not work here") {
				t.Errorf("the board says %+v", lines)
			}
			if !slices.ContainsFunc(w.console, func(s string) bool { return strings.HasPrefix(s, "rolled back from 1.1.0") }) {
				t.Errorf("the console says %q", w.console)
			}
			// It is left alone until a newer one is there.
			w.start()
			if err := w.life(apply); err == nil || !strings.Contains(err.Error(), "did not work here") {
				t.Errorf("again: %v", err)
			}
			repo.publish("1.1.1")
			w.start()
			if err := w.life(apply); err != nil {
				t.Fatal(err)
			}
			if w.untilQuiet(); w.running != "1.1.1" || len(w.record().Avoid) != 0 {
				t.Errorf("%s runs, %+v", w.running, w.record().Avoid)
			}
		})
	}
}

// Wherever the power goes, and wherever it goes again soon after, the machine runs the old or the new
// release, is at rest, and gets to the new one when asked again.
func TestPowerCuts(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	for _, how := range []string{"", "unwell", "unloadable"} {
		for cut, total := 1, 0; ; cut++ {
			more := false
			for _, after := range []bool{false, true} {
				for _, again := range []int{0, 1, 2, 3} {
					w := repo.world("1.0.0")
					w.how["1.1.0"] = how
					w.cutAt, w.cutAfter = []int{cut, cut + again}, after
					w.start()
					w.life(apply)
					w.untilQuiet()
					more = more || w.changes > cut
					total++
					checkCut(t, w, how, w.cutAt, after)
				}
			}
			if !more {
				if total < 50 {
					t.Errorf("%q: only %d cuts", how, total)
				}
				t.Logf("%q: %d cuts", how, total)
				break
			}
		}
	}
}

func checkCut(t *testing.T, w *world, how string, cut []int, after bool) {
	t.Helper()
	if w.running != "1.0.0" && w.running != "1.1.0" {
		t.Fatalf("%q, cuts %v after %v: %s runs", how, cut, after, w.running)
	}
	w.start() // whatever it is, it is at rest: nothing of it is left
	if err := w.life(nil); err != nil || w.rebooted || !w.settled {
		t.Fatalf("%q, cuts %v after %v: not at rest: %v, %+v", how, cut, after, err, w.record())
	}
	if r := w.record(); r.under() && r.State != release.StateStaged {
		t.Errorf("%q, cuts %v after %v: %+v is under way", how, cut, after, r.Attempt)
	}
	if how != "" {
		if w.running != "1.0.0" {
			t.Errorf("%q, cuts %v after %v: %s runs", how, cut, after, w.running)
		}
		return
	}
	for range 3 {
		if w.running == "1.1.0" {
			break
		}
		w.start()
		w.life(apply)
		w.untilQuiet()
	}
	if w.running != "1.1.0" || w.slots["1.1.0"].counted || w.record().last().Result != Committed {
		t.Errorf("cuts %v after %v: %s runs, %+v", cut, after, w.running, w.record())
	}
}

// A bundle goes through the same checks, and needs no repository.
func TestBundleByHand(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	data := repo.bundle("1.1.0")
	w := repo.world("1.0.0")
	w.config.URL = ""
	send := func(data []byte, size int64) func(*Updater) error {
		return func(u *Updater) error { return u.applyBundle(Request{}, size, bytes.NewReader(data), nil) }
	}
	w.start()
	if err := w.life(apply); err == nil || !strings.Contains(err.Error(), "updates.url") {
		t.Errorf("no repository: %v", err)
	}
	for name, bad := range map[string][]byte{"empty": nil, "cut": data[:len(data)/2], "other": []byte("no bundle"), "changed": bytes.Replace(data, []byte("UKI of"), []byte("XKI of"), 1)} {
		w.start()
		if err := w.life(send(bad, int64(len(bad)))); err == nil || w.rebooted {
			t.Errorf("%s: taken", name)
		}
	}
	w.start()
	if err := w.life(send(data, int64(len(data))-1)); err == nil || !strings.Contains(err.Error(), "longer") {
		t.Errorf("longer than said: %v", err)
	}
	w.start()
	if err := w.life(send(data, int64(len(data)))); err != nil {
		t.Fatal(err)
	}
	if w.untilQuiet(); w.running != "1.1.0" || w.record().last().How != Bundle {
		t.Errorf("%s runs, %+v", w.running, w.record())
	}
}

// PID 1 waits for as long as the configuration gives a trial.
func TestTrialAsksForTime(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	w := repo.world("1.0.0")
	w.config.Trial.Limit = 20 * time.Minute
	w.start()
	if err := w.life(apply); err != nil {
		t.Fatal(err)
	}
	w.start()
	err := w.life(func(u *Updater) error {
		got, err := os.ReadFile(filepath.Join(u.o.RunDir, trialFile))
		if err == nil && string(got) != "1200" {
			err = fmt.Errorf("PID 1 is told of %q s", got)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
