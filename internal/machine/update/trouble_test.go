// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/host/publish"
	"wherry.example/wherry/release"
)

// Each trouble before staging is a clear error, and leaves the machine as it was.
func TestTroubleBeforeStaging(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*world, *repository)
		want   string
	}{
		{"state full", func(w *world, _ *repository) { w.free = margin }, "the state disk has 50 MB free, and the update needs 50"},
		{"boot partition full", func(w *world, _ *repository) { w.space = 1 }, "write 1.1.0 to the boot partition: no room"},
		{"no repository", func(w *world, _ *repository) { w.config.URL = "" }, "updates.url"},
		{"nobody there", func(w *world, _ *repository) { w.config.URL = "http://127.0.0.1:1" }, "connection refused"},
		{"no root role", func(w *world, _ *repository) { w.root = "/nonexistent" }, "--release-root"},
		{"another's root role", func(w *world, r *repository) { w.root = newRepository(w.t).root }, "not signed by the keys"},
		{"firmware refuses", func(w *world, _ *repository) {
			w.refuses = errors.New("signed by Mallory, whom this firmware does not know")
		}, "Mallory"},
		{"pinned elsewhere", func(w *world, _ *repository) { w.config.Pin = "7.0.0" }, "pinned to 7.0.0, which is not in the repository"},
		{"pinned to an older one", func(w *world, _ *repository) { w.config.Pin = "0.9.0" }, "0.9.0 is older than 1.0.0, which runs"},
		{"clock ten years ahead", func(w *world, _ *repository) { w.now, w.clockSet = w.now.AddDate(10, 0, 0), false }, "no time server has confirmed it"},
		{"release without OS file", func(w *world, r *repository) { r.attack = nil; w.config.Pin = "1.2.0"; r.publishEmpty("1.2.0") }, "published without wherry.efi"},
		{"file changed", func(_ *world, r *repository) { r.attack = replace(".wherry.efi", strings.Repeat("x", 260000)) }, "not the file that was signed"},
		{"endless file", func(_ *world, r *repository) { r.attack = endless("targets.json") }, "larger than it may be"},
		{"endless timestamp", func(_ *world, r *repository) { r.attack = endless("timestamp.json") }, "larger than it may be"},
		{"dripping", func(w *world, r *repository) { w.limits = quick(); r.attack = drip }, "too slow"},
		{"redirected", func(_ *world, r *repository) { r.attack = redirect }, "redirected elsewhere"},
	} {
		t.Run(c.name, func(t *testing.T) {
			repo := newRepository(t)
			repo.publish("0.9.0")
			repo.publish("1.1.0")
			w := repo.world("1.0.0")
			c.change(w, repo)
			w.start()
			err := w.life(func(u *Updater) error {
				err := apply(u)
				if s := u.current(); s.under() || u.job != nil {
					t.Errorf("something is under way: %+v", s)
				}
				return err
			})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if w.rebooted || len(w.slots) != 1 {
				t.Errorf("restarted %v, slots %v", w.rebooted, w.slots)
			}
		})
	}
}

// A clock that is ten years behind does not keep a machine from what is fresh.
func TestClockBehind(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	w := repo.world("1.0.0")
	w.now = w.now.AddDate(-10, 0, 0)
	w.start()
	if err := w.life(apply); err != nil {
		t.Fatal(err)
	}
	if w.untilQuiet(); w.running != "1.1.0" {
		t.Errorf("%s runs", w.running)
	}
}

func quick() *release.Limits {
	l := release.DefaultLimits()
	l.FileTime, l.RefreshTime, l.Window = 200*time.Millisecond, time.Second, 200*time.Millisecond
	return &l
}

func replace(suffix, content string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, suffix) {
			return false
		}
		io.WriteString(w, content)
		return true
	}
}

func endless(suffix string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, suffix) {
			return false
		}
		for piece := make([]byte, 64<<10); ; {
			if _, err := w.Write(piece); err != nil {
				return true
			}
		}
	}
}

func drip(w http.ResponseWriter, r *http.Request) bool {
	for r.Context().Err() == nil {
		io.WriteString(w, " ")
		w.(http.Flusher).Flush()
		time.Sleep(10 * time.Millisecond)
	}
	return true
}

func redirect(w http.ResponseWriter, r *http.Request) bool {
	http.Redirect(w, r, "http://169.254.169.254"+r.URL.Path, http.StatusFound)
	return true
}

// A download that was cut off goes on where it ended, over restarts of the machine. A server that begins anew each time
// sends more than the file has, and that is what the history tells.
func TestDownloadResumes(t *testing.T) {
	for name, ranges := range map[string]bool{"with ranges": true, "from the beginning": false} {
		repo := newRepository(t)
		repo.publish("1.1.0")
		w := repo.world("1.0.0")
		whole := len(osFile("1.1.0"))
		sent, more := 0, 0
		repo.attack = func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "."+release.OSFile) {
				return false
			}
			from := 0
			fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
			upTo := min(from+100_000, whole)
			if from > 0 && ranges {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, whole-1, whole))
				w.WriteHeader(http.StatusPartialContent)
			} else {
				w.Header().Set("Content-Length", fmt.Sprint(whole))
				more, from = more+from, 0
			}
			sent += upTo - from
			w.Write(osFile("1.1.0")[from:upTo])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		limits := release.DefaultLimits()
		limits.Attempts = 1
		w.limits = &limits
		for boot := range 3 {
			w.start()
			if err := w.life(apply); (err == nil) != (boot == 2) {
				t.Fatalf("%s, boot %d: %v", name, boot, err)
			}
		}
		if w.untilQuiet(); w.running != "1.1.0" || sent != whole+more || ranges != (more == 0) || w.record().last().Fetched != int64(sent) {
			t.Errorf("%s: %s runs, %d bytes were sent for %d: %+v", name, w.running, sent, whole, w.record().last())
		}
		if left, _ := filepath.Glob(filepath.Join(w.dir, "update", "download", "*")); len(left) > 0 {
			t.Errorf("%s: left behind: %v", name, left)
		}
	}
}

// Of two at once one wins; who comes during a shutdown is sent away, and a
// download that a shutdown ends goes on after it.
func TestTwoAtOnce(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	w := repo.world("1.0.0")
	asked, answer := make(chan bool, 9), make(chan bool)
	repo.attack = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "."+release.OSFile) {
			asked <- true
			select {
			case <-answer:
			case <-r.Context().Done():
			}
		}
		return false
	}
	w.start()
	w.life(func(u *Updater) error {
		first := make(chan error)
		go func() { first <- apply(u) }()
		<-asked
		for name, second := range map[string]func() error{
			"apply": func() error { return u.Apply(Request{StageOnly: true}, nil) }, "check": func() error { return u.Check(t.Context()) },
			"rollback": func() error { _, err := u.goBack(t.Context(), ""); return err },
			"bundle":   func() error { return u.applyBundle(Request{}, 0, strings.NewReader(""), nil) },
		} {
			if err := second(); !errdefs.IsConflict(err) {
				t.Errorf("%s beside it: %v", name, err)
			}
		}
		if s, _ := u.Update(t.Context()); s.Phase != "downloading" || s.Target != "1.1.0" {
			t.Errorf("it says %v", s)
		}
		u.Close(t.Context())
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("after the shutdown began: %v", err)
		}
		if err := apply(u); !errdefs.IsUnavailable(err) {
			t.Errorf("during the shutdown: %v", err)
		}
		return nil
	})
	close(answer)
	w.start()
	if err := w.life(apply); err != nil {
		t.Fatal(err)
	}
	if w.untilQuiet(); w.running != "1.1.0" {
		t.Errorf("%s runs", w.running)
	}
}

// What is staged without a restart is tried by the next one, whoever wanted it, and
// compared with what worked when that began.
// Who asks while the machine looks by itself gets an answer, and no conflict; while it downloads, a conflict.
func TestLookIsWaitedFor(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	w := repo.world("1.0.0")
	w.start()
	err := w.life(func(u *Updater) error {
		u.o.again = 100 * time.Millisecond
		for _, phase := range []string{"", "checking"} {
			j, err := u.begin(Automatic, Request{}, nil)
			if err != nil {
				return err
			}
			j.tell(Progress{Phase: phase})
			time.AfterFunc(20*time.Millisecond, func() { j.end(nil) })
			if err := u.Check(t.Context()); err != nil {
				return err
			}
		}
		j, err := u.begin(Automatic, Request{}, nil)
		if err != nil {
			return err
		}
		defer j.end(nil)
		j.tell(Progress{Phase: "downloading"})
		if err := u.Check(t.Context()); !errdefs.IsConflict(err) {
			t.Errorf("while it downloads: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A release whose programs tell an older version than its file does not stand in the way of the next one,
// and is what is left when somebody goes back.
func TestMislabelled(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	w := repo.world("1.1.0")
	w.start()
	err := w.life(func(u *Updater) error {
		u.version, _ = release.ParseVersion("1.0.0")
		if err := apply(u); err == nil || !strings.Contains(err.Error(), "runs already") {
			t.Errorf("to what runs: %v", err)
		}
		if r := u.current(); r.under() {
			t.Errorf("an attempt was begun: %+v", r)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestMislabelledRollback(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	w := repo.world("1.0.0")
	w.start()
	if err := w.life(apply); err != nil {
		t.Fatal(err)
	}
	w.untilQuiet()
	w.start()
	err := w.life(func(u *Updater) error {
		u.version, _ = release.ParseVersion("1.0.0")
		_, err := u.goBack(t.Context(), "me")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	w.untilQuiet()
	if e := w.record().last(); w.running != "1.0.0" || e.From != v("1.1.0") || e.Result != RolledBack {
		t.Errorf("%s runs, %+v", w.running, e)
	}
}

func TestStageOnly(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	w := repo.world("1.0.0")
	w.start()
	w.life(func(u *Updater) error {
		if err := u.Apply(Request{StageOnly: true}, nil); err != nil {
			t.Fatal(err)
		}
		if s, _ := u.Update(t.Context()); s.Phase != "staged" || s.Target != "1.1.0" || len(s.Slots) != 2 || !s.Slots[0].Next {
			t.Errorf("it says %v", s)
		}
		return nil
	})
	if a := w.record().Attempt; a == nil || a.Down.IsZero() || len(a.Baseline) == 0 {
		t.Fatalf("%+v", a)
	}
	if w.untilQuiet(); w.running != "1.1.0" || w.record().last().Downtime == 0 {
		t.Errorf("%s runs, %+v", w.running, w.record().last())
	}
	w.start()
	w.life(func(u *Updater) error { return u.Apply(Request{StageOnly: true}, nil) })
}

// A newer release takes the place of one that is staged; going back drops it.
func TestStagedIsReplaced(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	w := repo.world("1.0.0")
	w.slots["0.9.0"] = &file{}
	w.start()
	w.life(func(u *Updater) error {
		if err := u.Apply(Request{StageOnly: true}, nil); err != nil {
			t.Error(err)
		}
		repo.publish("1.2.0")
		if err := u.Apply(Request{StageOnly: true}, nil); err != nil {
			t.Error(err)
		}
		if w.slots["1.1.0"] != nil || w.slots["1.2.0"] == nil || w.slots["0.9.0"] == nil {
			t.Errorf("slots %v", w.slots)
		}
		_, err := u.goBack(t.Context(), "")
		return err
	})
	if w.untilQuiet(); w.running != "0.9.0" || w.slots["1.2.0"] != nil {
		t.Errorf("%s runs, slots %v", w.running, w.slots)
	}
}

// Where nothing can be replaced the board says why, and callers hear it.
func TestNotPossible(t *testing.T) {
	w := newWorld(t, "1.0.0")
	w.persistent = false
	w.start()
	w.life(func(u *Updater) error {
		if err := apply(u); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "the state is in memory") {
			t.Errorf("%v", err)
		}
		if s, _ := u.Update(t.Context()); !strings.Contains(s.Unavailable, "memory") {
			t.Errorf("it says %v", s)
		}
		return nil
	})
	if !w.settled {
		t.Error("PID 1 would restart this machine")
	}
}

// Run follows the policy: it looks, downloads, and goes when it is time.
func TestAutomatic(t *testing.T) {
	for mode, want := range map[string]string{config.UpdatesAutomatic: "restart", config.UpdatesDownloadOnly: "download", config.UpdatesManual: "tell"} {
		repo := newRepository(t)
		repo.publish("1.1.0")
		w := repo.world("1.0.0")
		w.config.Mode = mode
		w.start()
		w.life(func(u *Updater) error {
			u.round(t.Context())
			return nil
		})
		got := "tell"
		if files, _ := filepath.Glob(filepath.Join(w.dir, "update", "download", "*.efi")); len(files) == 1 {
			got = "download"
		}
		if w.rebooted {
			got = "restart"
		}
		if got != want {
			t.Errorf("%s: %s, want %s", mode, got, want)
		}
	}
}

// The status page hears each news once, with the reason.
func TestReport(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	var heard []release.Report
	repo.attack = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/report" {
			return false
		}
		data, _ := io.ReadAll(r.Body)
		got, err := release.ParseReport(data)
		if err != nil {
			t.Errorf("%v: %s", err, data)
		}
		heard = append(heard, got)
		return true
	}
	w := repo.world("1.0.0")
	w.config.Report, w.config.Mode = true, config.UpdatesManual
	w.how["1.1.0"] = "unwell"
	look := func(u *Updater) error { u.round(t.Context()); u.round(t.Context()); return nil }
	w.start()
	w.life(look)
	w.start()
	w.life(apply)
	w.untilQuiet()
	w.start()
	w.life(look)
	if len(heard) != 2 || heard[0].State != release.StateIdle || heard[1].State != release.StateRolledBack || heard[1].Target.String() != "1.1.0" ||
		!strings.Contains(heard[1].Reason, "redis is not healthy") || heard[0].ID != heard[1].ID {
		t.Errorf("heard %+v", heard)
	}
}

// A machine with nothing to do costs nothing: no writes, no goroutines left.
func TestIdleCostsNothing(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.0.0")
	w := repo.world("1.0.0")
	w.start()
	w.life(func(u *Updater) error { u.round(t.Context()); return nil })
	changes, routines := w.changes, runtime.NumGoroutine()
	w.start()
	w.life(func(u *Updater) error {
		for range 5 {
			u.round(t.Context())
		}
		return nil
	})
	if w.changes != changes {
		t.Errorf("%d writes", w.changes-changes)
	}
	for range 50 {
		if runtime.NumGoroutine() <= routines+6 { // one connection, on both sides
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("%d goroutines, before there were %d", runtime.NumGoroutine(), routines)
}

// A record that is damaged is no reason to stop.
func TestDamagedRecord(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	for _, bad := range []string{"", "{", `{"state":7}`, strings.Repeat(" ", maxRecord+1)} {
		w := repo.world("1.0.0")
		repo.check(writeFile(filepath.Join(w.dir, "update", "record.json"), bad))
		w.start()
		if err := w.life(apply); err != nil {
			t.Fatal(err)
		}
		repo.check(writeFile(filepath.Join(w.dir, "update", "record.json"), bad)) // lost while it is staged
		if w.untilQuiet(); w.running != "1.1.0" || w.record().last().How != Unknown || w.record().last().From != v("1.0.0") {
			t.Errorf("%s runs, %+v", w.running, w.record().last())
		}
	}
}

func FuzzRecord(f *testing.F) {
	data, _ := json.Marshal(Record{State: release.StateTrying, Attempt: to11(broken), History: []Entry{{}}})
	f.Add(data, "1.1.0+2-1* 1.0.0")
	f.Add([]byte(`{"state":"staged","attempt":{}}`), "1.0.0*")
	f.Fuzz(func(t *testing.T, data []byte, slots string) {
		var r Record
		if json.Unmarshal(data, &r) != nil {
			return
		}
		before, _ := json.Marshal(r)
		d := Decide(r, partition(slots))
		if after, _ := json.Marshal(r); !reflect.DeepEqual(before, after) {
			t.Error("the record was changed")
		}
		if !d.Reboot && !d.Settled && !d.Try {
			t.Errorf("neither stays nor goes: %+v", d)
		}
	})
}

// Who asks is told the root role that is trusted now, and a damaged memory of it changes nothing for good.
func TestTrustIsTold(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	w := repo.world("1.0.0")
	told := func(u *Updater, now, image int64) {
		t.Helper()
		if s, _ := u.Update(t.Context()); s.RootVersion != now || s.ImageRootVersion != image || !strings.HasPrefix(s.RootRole, fmt.Sprintf("root %d, 1 of the keys ", now)) {
			t.Errorf("%d %d %q, want %d %d", s.RootVersion, s.ImageRootVersion, s.RootRole, now, image)
		}
	}
	w.start()
	w.life(func(u *Updater) error {
		told(u, 1, 1)
		repo.check(u.Check(t.Context()))
		told(u, 1, 1)
		repo.with(func(ctx context.Context, p *publish.Repository) error {
			_, err := p.Rotate(ctx, "targets", repo.keys)
			return err
		})
		repo.check(u.Check(t.Context()))
		told(u, 3, 1) // both keys, then the new one alone
		return nil
	})
	w.start()
	w.life(func(u *Updater) error {
		told(u, 3, 1)
		repo.check(writeFile(filepath.Join(w.dir, "update", "metadata", "2.root.json"), "{"))
		told(u, 1, 1)
		repo.check(u.Check(t.Context()))
		told(u, 3, 1)
		return nil
	})
}
