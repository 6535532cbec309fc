// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/linux/block"
	"wherry.example/wherry/release"
)

// Somebody who sees during the trial that it is no good need not wait.
func TestRollbackDuringTrial(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	w := repo.world("1.0.0")
	w.how["1.1.0"] = "slow"
	w.config.Trial.Limit = 20 * time.Minute
	w.start()
	if err := w.life(apply); err != nil {
		t.Fatal(err)
	}
	w.start()
	done := make(chan bool)
	go func() { w.life(nil); close(done) }()
	<-w.waiting
	w.mu.Lock()
	u := w.daemon
	w.mu.Unlock()
	if err := apply(u); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "1.1.0 is on trial") {
		t.Errorf("another update meanwhile: %v", err)
	}
	s, _ := u.Update(t.Context())
	if s.Phase != "trying" || s.Target != "1.1.0" || len(s.Trial.GetChecks()) != 1 || s.Trial.Checks[0].State != "waiting" {
		t.Errorf("it says %v", s)
	}
	if more, err := os.ReadFile(filepath.Join(u.o.RunDir, extendFile)); err != nil || string(more) != "900" {
		t.Errorf("PID 1 hears %q, %v", more, err)
	}
	if r, err := u.Rollback(t.Context(), "me"); err != nil || r.Version != "1.0.0" {
		t.Errorf("%v, %v", r, err)
	}
	<-done
	w.untilQuiet()
	if e := w.record().last(); w.running != "1.0.0" || e.Result != RolledBack || e.From != v("1.0.0") || e.Reason != "rolled back by hand (me)" {
		t.Errorf("%s runs, %+v", w.running, e)
	}
}

// There must be something to go back to.
func TestRollbackToNothing(t *testing.T) {
	w := newWorld(t, "1.0.0")
	w.slots["1.1.0"] = &file{counted: true}
	w.start()
	w.life(func(u *Updater) error {
		if _, err := u.Rollback(t.Context(), ""); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%v", err)
		}
		return nil
	})
	if w.rebooted || w.slots["1.0.0"].counted {
		t.Error("it is left all the same")
	}
}

// A machine whose clock was wrong asks again as soon as it is right.
func TestClockIsSet(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	w := repo.world("1.0.0")
	right := w.now
	w.now, w.clockSet = w.now.AddDate(10, 0, 0), false
	w.start()
	w.life(func(u *Updater) error {
		if wait := u.round(t.Context()); wait != clockPoll {
			t.Errorf("it waits for %s", wait)
		}
		if s, _ := u.Update(t.Context()); !strings.Contains(s.CheckError, "expired") || !strings.Contains(s.CheckError, "2037-02-19") {
			t.Errorf("it says %q", s.CheckError)
		}
		w.mu.Lock()
		w.now, w.clockSet = right, true
		w.mu.Unlock()
		u.round(t.Context())
		return nil
	})
	if w.untilQuiet(); w.running != "1.1.0" {
		t.Errorf("%s runs", w.running)
	}
}

// Failures are followed by growing pauses, also when it is the download that fails.
func TestBackOff(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	for _, attack := range []string{"timestamp.json", OSFile} {
		repo.attack = replace(attack, "no")
		w := repo.world("1.0.0")
		w.start()
		w.life(func(u *Updater) error {
			for _, least := range []time.Duration{45 * time.Second, 90 * time.Second, 3 * time.Minute, 6 * time.Minute} {
				if wait := u.round(t.Context()); wait < least || wait > 2*least {
					t.Errorf("%s: %s, want about %s", attack, wait, least*4/3)
				}
			}
			if s, _ := u.Update(t.Context()); s.CheckError == "" || (s.Offer == nil) != (attack == "timestamp.json") {
				t.Errorf("%s: it says %v", attack, s)
			}
			repo.attack = nil
			if wait := u.round(t.Context()); !w.rebooted || wait < 45*time.Minute {
				t.Errorf("%s: at last: %s", attack, wait)
			}
			return nil
		})
	}
}

// patch makes a file out of a delta that is the file.
type patch struct {
	file release.File
	fail error
	from string
}

func (p *patch) Find(rel release.Release, from release.Version) (release.File, bool) {
	p.from = from.String()
	return p.file, true
}

func (p *patch) Rebuild(_ context.Context, from Slot, delta, dst *os.File) error {
	if _, err := io.Copy(dst, io.NewSectionReader(delta, 0, p.file.Bytes)); err != nil || from.Version != p.from {
		return errors.Join(err, errors.New("of another slot"))
	}
	return p.fail
}

// A delta is taken when it is of use, and else the whole file, with the reason in the history.
func TestDelta(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	// What the release signs under another name serves as the delta.
	repo.publishPart("1.2.0", OSFile, osFile("1.1.0"))
	repo.publishPart("1.3.0", OSFile, []byte("something else"))
	find := func(version string) release.File {
		root, err := os.ReadFile(repo.root)
		repo.check(err)
		r, err := release.Refresh(t.Context(), release.Config{Root: root, Source: release.Dir(repo.dir), Now: repo.clock})
		repo.check(err)
		for _, rel := range r.Releases {
			if rel.Version == v(version) {
				return rel.Files[0]
			}
		}
		t.Fatal("not there")
		return release.File{}
	}
	gone := find("1.2.0")
	gone.SHA256 = strings.Repeat("0", 64)
	for _, c := range []struct {
		name  string
		patch patch
		delta bool
		note  string
	}{
		{"good", patch{file: find("1.2.0")}, true, ""},
		{"fails", patch{file: find("1.2.0"), fail: errors.New("out of memory")}, false, "rebuild from the delta: out of memory"},
		{"wrong", patch{file: find("1.3.0")}, false, "14 bytes came out of the delta, and not 260000"},
		{"not there", patch{file: gone}, false, "404"},
	} {
		w := repo.world("1.0.0")
		w.deltas = &c.patch
		w.start()
		if err := w.life(apply); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		w.untilQuiet()
		if e := w.record().last(); w.running != "1.1.0" || e.Delta != c.delta || !strings.Contains(e.Note, c.note) || (e.Note == "") != c.delta {
			t.Errorf("%s: %s runs, %+v", c.name, w.running, e)
		}
	}
}

// A pause survives restarts, ends by itself, and does not keep people from applying.
func TestPauseAndResume(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	w := repo.world("1.0.0")
	w.start()
	w.life(func(u *Updater) error {
		if err := u.Pause(w.now.Add(-time.Hour)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("until yesterday: %v", err)
		}
		return u.Pause(time.Time{})
	})
	for _, resumed := range []bool{false, true} {
		w.start()
		w.life(func(u *Updater) error {
			if resumed {
				if err := u.Resume(); err != nil {
					t.Error(err)
				}
			}
			u.round(t.Context())
			if s, _ := u.Update(t.Context()); s.Paused == resumed || s.Offer == nil {
				t.Errorf("it says %v", s)
			}
			return nil
		})
		if w.rebooted != resumed {
			t.Errorf("restarted: %v, resumed: %v", w.rebooted, resumed)
		}
	}
}

// A bundle on a stick is taken by machines that update themselves, and by no others.
func TestStick(t *testing.T) {
	repo := newRepository(t)
	repo.publish("1.1.0")
	dir := t.TempDir()
	repo.check(os.WriteFile(filepath.Join(dir, "a.wherry"), []byte("no bundle"), 0o644))
	repo.check(os.WriteFile(filepath.Join(dir, "b.wherry"), repo.bundle("1.1.0"), 0o644))
	for mode, want := range map[string]string{config.UpdatesAutomatic: "1.1.0", config.UpdatesManual: "1.0.0", config.UpdatesDownloadOnly: "1.0.0"} {
		w := repo.world("1.0.0")
		w.config = config.Updates{Mode: mode}
		w.start()
		w.life(func(u *Updater) error {
			u.o.Sticks = func(_ context.Context, use func(string)) error {
				files, err := bundlesIn(dir)
				for _, f := range files {
					use(f)
				}
				return err
			}
			u.fromSticks(t.Context())
			return nil
		})
		w.untilQuiet()
		if w.running != want || want == "1.1.0" && w.record().last().How != Stick {
			t.Errorf("%s: %s runs, %+v", mode, w.running, w.record().last())
		}
		if said := strings.Join(w.console, "\n"); want == "1.1.0" && !strings.Contains(said, "a.wherry on the USB stick: read bundle") {
			t.Errorf("the console says %q", said)
		}
	}
}

func TestWhatIsLookedAtOnSticks(t *testing.T) {
	disks := []block.Disk{
		{Name: "sda", Path: "/dev/sda", Partitions: []block.Partition{{Path: "/dev/sda1"}}},
		{Name: "sdb", Path: "/dev/sdb", Removable: true, Partitions: []block.Partition{{Path: "/dev/sdb1"}, {Path: "/dev/sdb2"}}},
		{Name: "sdc", Path: "/dev/sdc", Removable: true},
	}
	if diff := cmp.Diff([]string{"/dev/sdb1", "/dev/sdb2", "/dev/sdc"}, removable(disks)); diff != "" {
		t.Error(diff)
	}
	many := block.Disk{Removable: true, Partitions: make([]block.Partition, 200)}
	if n := len(removable([]block.Disk{many})); n != maxStickParts {
		t.Errorf("%d partitions", n)
	}
	dir := t.TempDir()
	for _, name := range []string{"b.WHERRY", "a.wherry", ".hidden.wherry", "c.txt"} {
		if err := writeFile(filepath.Join(dir, name), ""); err != nil {
			t.Fatal(err)
		}
	}
	os.Mkdir(filepath.Join(dir, "folder.wherry"), 0o755)
	os.Symlink("/etc/passwd", filepath.Join(dir, "link.wherry"))
	got, err := bundlesIn(dir)
	if diff := cmp.Diff([]string{filepath.Join(dir, "a.wherry"), filepath.Join(dir, "b.WHERRY")}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

// A bundle that somebody sends is bounded, by what they said and by the disk's room.
func TestSpoolIsBounded(t *testing.T) {
	w := newWorld(t, "1.0.0")
	w.start()
	w.life(func(u *Updater) error {
		if err := u.applyBundle(Request{}, maxBundleBytes+1, nil, nil); !errdefs.IsResourceExhausted(err) {
			t.Errorf("larger than the limit: %v", err)
		}
		w.free = margin + 20<<20
		taken := counting(func(n int) { w.mu.Lock(); w.free -= int64(n); w.mu.Unlock() })
		source := io.TeeReader(io.LimitReader(zeros{}, 1<<30), taken)
		if err := u.applyBundle(Request{}, 0, source, nil); !errdefs.IsResourceExhausted(err) {
			t.Errorf("longer than there is room: %v", err)
		}
		if left, _ := filepath.Glob(filepath.Join(u.o.Dir, "*.wherry")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		if w.free < margin-10<<20 {
			t.Errorf("only %d bytes are free", w.free)
		}
		return nil
	})
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

type counting func(int)

func (c counting) Write(b []byte) (int, error) {
	c(len(b))
	return len(b), nil
}
