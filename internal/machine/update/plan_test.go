// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"wherry.example/wherry/release"
)

var when = time.Date(2027, 3, 1, 2, 0, 0, 0, time.UTC)

// to11 is an attempt to go from 1.0.0 to 1.1.0.
func to11(change ...func(*Attempt)) *Attempt {
	a := &Attempt{From: v("1.0.0"), To: v("1.1.0"), How: Automatic, Begun: when, Boot: "b1", File: release.File{SHA256: "sum", Bytes: 9}}
	for _, c := range change {
		c(a)
	}
	return a
}

func broken(a *Attempt)  { a.Failed = "redis is not healthy"; a.Starts = 1; a.Boot = "b2" }
func started(a *Attempt) { a.Starts = 1; a.Boot = "b2" }

// partition is a boot partition in short: "1.0.0* 1.1.0+2-1" is 1.0.0, which runs, and 1.1.0 with a counter.
func partition(text string) (s Seen) {
	s = Seen{Boot: "b2", Persistent: true, Now: when.Add(time.Minute)}
	for _, word := range strings.Fields(text) {
		var slot Slot
		name, running := strings.CutSuffix(word, "*")
		slot.Running = running
		version, counter, counted := strings.Cut(name, "+")
		slot.Version = version
		if counted {
			slot.Trial = true
			fmt.Sscanf(counter, "%d-%d", &slot.TriesLeft, &slot.TriesDone)
			slot.Bad = slot.TriesLeft == 0
		}
		if running {
			s.Running = slot
		}
		s.Slots = append(s.Slots, slot)
	}
	return s
}

// short is a decision in words.
func short(d Decision) string {
	var out []string
	add := func(is bool, what string) {
		if is {
			out = append(out, what)
		}
	}
	add(d.Remove != "", "remove "+d.Remove)
	add(d.Retire != "", "retire "+d.Retire)
	out = append(out, string(d.Record.State))
	add(d.Record.under(), "under way")
	if !d.Record.under() && len(d.Record.History) > 0 {
		e := d.Record.History[0]
		out = append(out, fmt.Sprintf("[%s→%s %s]", e.From, e.To, e.Result))
	}
	add(d.Bless, "bless")
	add(d.Try, "try")
	add(d.Reboot, "reboot")
	add(d.Settled, "settled")
	return strings.Join(out, ", ")
}

func TestDecide(t *testing.T) {
	past := func(result Result) []Entry { return []Entry{{From: v("1.0.0"), To: v("1.1.0"), Result: result}} }
	const idle, staged, trying, committed, back = release.StateIdle, release.StateStaged, release.StateTrying, release.StateCommitted, release.StateRolledBack
	for _, c := range []struct {
		name   string
		record Record
		seen   string
		want   string
		reason string // of the history's newest entry
	}{
		{"nothing", Record{State: idle}, "1.0.0*", "idle, settled", ""},
		{"nothing, an older one lies there", Record{State: idle}, "1.1.0* 1.0.0", "idle, settled", ""},
		{"committed long ago", Record{State: committed, History: past(Committed)}, "1.1.0* 1.0.0", "committed, [1.0.0→1.1.0 committed], settled", ""},
		{"rolled back long ago", Record{State: back, History: past(RolledBack)}, "1.1.0+0-3 1.0.0*", "rolled-back, [1.0.0→1.1.0 rolled back], settled", ""},

		// Cut while it was written.
		{"before the first byte", Record{State: idle, Attempt: to11()}, "1.0.0*", "idle, settled", ""},
		{"written, not recorded", Record{State: idle, Attempt: to11()}, "1.1.0+3-0 1.0.0*", "remove 1.1.0, idle, settled", ""},
		{"written, not recorded, started", Record{State: idle, Attempt: to11()}, "1.1.0+2-1* 1.0.0", "trying, under way, try", ""},
		{"written, not recorded, did not load", Record{State: idle, Attempt: to11()}, "1.1.0+0-3 1.0.0*", "rolled-back, [1.0.0→1.1.0 rolled back], settled", "started 3 times, and wherryd never"},

		// Staged.
		{"wherryd was started again", Record{State: staged, Attempt: to11(func(a *Attempt) { a.Boot = "b2" })}, "1.1.0+3-0 1.0.0*", "staged, under way, settled", ""},
		{"the loader took the old one", Record{State: staged, Attempt: to11()}, "1.1.0+3-0 1.0.0*", "staged, under way, settled", ""},
		{"… for the third time", Record{State: staged, Attempt: to11(func(a *Attempt) { a.Passed = 2 })}, "1.1.0+3-0 1.0.0*",
			"retire 1.1.0, rolled-back, [1.0.0→1.1.0 rolled back], settled", "the boot loader never started it, in 3 restarts"},
		{"first boot of it", Record{State: staged, Attempt: to11()}, "1.1.0+2-1* 1.0.0", "trying, under way, try", ""},
		{"last boot of it", Record{State: staged, Attempt: to11()}, "1.1.0+0-3* 1.0.0", "trying, under way, try", ""},
		{"it runs and nobody counts", Record{State: staged, Attempt: to11()}, "1.1.0* 1.0.0", "trying, under way, try", ""},
		{"never came up", Record{State: staged, Attempt: to11()}, "1.1.0+0-3 1.0.0*", "rolled-back, [1.0.0→1.1.0 rolled back], settled", "started 3 times, and wherryd never"},
		{"came up to half", Record{State: staged, Attempt: to11()}, "1.1.0+2-1 1.0.0*", "retire 1.1.0, rolled-back, [1.0.0→1.1.0 rolled back], settled", "started once, and wherryd never"},
		{"its file has gone", Record{State: staged, Attempt: to11()}, "1.0.0*", "idle, [1.0.0→1.1.0 lost], settled", "not on the boot partition any more"},
		{"its file has gone again", Record{State: staged, Attempt: to11(), History: []Entry{{From: v("1.0.0"), To: v("1.1.0"), Result: Lost}}}, "1.0.0*",
			"rolled-back, [1.0.0→1.1.0 rolled back], settled", "not on the boot partition any more, or has lost its contents, for the second time"},
		{"its file runs and has gone from the list", Record{State: staged, Attempt: to11()}, "1.2.0* 1.0.0", "idle, [1.0.0→1.1.0 lost], settled", ""},

		// Trying.
		{"second boot of it", Record{State: trying, Attempt: to11(started)}, "1.1.0+1-2* 1.0.0", "trying, under way, try", ""},
		{"blessed, not recorded", Record{State: trying, Attempt: to11(started)}, "1.1.0* 1.0.0", "committed, [1.0.0→1.1.0 committed], settled", ""},
		{"never got well", Record{State: trying, Attempt: to11(func(a *Attempt) { a.Starts = 2 })}, "1.1.0+0-3 1.0.0*",
			"rolled-back, [1.0.0→1.1.0 rolled back], settled", "started 3 times, wherryd came up 2 times, and the machine never got well"},
		{"somebody chose the old one in the menu", Record{State: trying, Attempt: to11(started)}, "1.1.0+2-1 1.0.0*",
			"retire 1.1.0, rolled-back, [1.0.0→1.1.0 rolled back], settled", "started once, wherryd came up once"},
		{"its file has gone meanwhile", Record{State: trying, Attempt: to11(started)}, "1.0.0*", "rolled-back, [1.0.0→1.1.0 rolled back], settled", "its file has gone"},

		// Leaving.
		{"failed, not retired", Record{State: trying, Attempt: to11(broken)}, "1.1.0+2-1* 1.0.0", "retire 1.1.0, trying, under way, reboot", ""},
		{"failed, retired, not restarted", Record{State: trying, Attempt: to11(broken)}, "1.1.0+0-1* 1.0.0", "retire 1.1.0, trying, under way, reboot", ""},
		{"failed, retired, back", Record{State: trying, Attempt: to11(broken)}, "1.1.0+0-1 1.0.0*", "rolled-back, [1.0.0→1.1.0 rolled back], settled", "redis is not healthy"},
		{"failed, not retired, back by hand", Record{State: trying, Attempt: to11(broken)}, "1.1.0+1-1 1.0.0*", "retire 1.1.0, rolled-back, [1.0.0→1.1.0 rolled back], settled", "redis is not healthy"},
		{"failed, nowhere to go", Record{State: trying, Attempt: to11(broken)}, "1.1.0+2-1*", "idle, [1.0.0→1.1.0 stayed], settled", "there is no other release"},
		{"failed, the other is bad too", Record{State: trying, Attempt: to11(broken)}, "1.1.0+2-1* 1.0.0+0-3", "idle, [1.0.0→1.1.0 stayed], settled", "there is no other release"},
		{"failed, and it cannot be left", Record{State: trying, Attempt: to11(broken, func(a *Attempt) { a.Leaving = 3 })}, "1.1.0* 1.0.0",
			"idle, [1.0.0→1.1.0 stayed], settled", "restarted 3 times"},
		{"stayed, next boot", Record{State: idle, History: past(Stayed)}, "1.1.0+0-3*", "idle, [1.0.0→1.1.0 stayed], settled", ""},

		// By hand.
		{"rollback, not retired", Record{State: trying, Attempt: to11(func(a *Attempt) { a.How, a.Failed = Rollback, "by hand" })}, "1.1.0* 1.0.0", "retire 1.1.0, trying, under way, reboot", ""},
		{"rollback, done", Record{State: trying, Attempt: to11(func(a *Attempt) { a.How, a.Failed = Rollback, "by hand" })}, "1.1.0+0-0 1.0.0*",
			"rolled-back, [1.1.0→1.0.0 rolled back], settled", "by hand"},

		// The record is lost, or knows of other things.
		{"lost while trying", Record{State: idle}, "1.1.0+2-1* 1.0.0", "trying, under way, try", ""},
		{"lost, and it had failed", Record{State: idle, Avoid: []release.Avoided{{Version: v("1.1.0"), Reason: "no", At: when}}}, "1.1.0+2-1* 1.0.0", "retire 1.1.0, trying, under way, reboot", ""},
		{"lost, and somebody had gone back", Record{State: idle, Avoid: []release.Avoided{{Version: v("1.1.0"), ByHand: true, At: when}}}, "1.1.0+2-1* 1.0.0", "retire 1.1.0, trying, under way, reboot", ""},
		{"the blessing was lost", Record{State: committed, History: past(Committed)}, "1.1.0+2-1* 1.0.0", "committed, [1.0.0→1.1.0 committed], bless, settled", ""},
		{"of another version", Record{State: staged, Attempt: to11()}, "1.2.0+2-1* 1.0.0", "trying, under way, try", ""},
		{"no release", Record{State: idle}, "mine+2-1* 1.0.0", "idle, settled", ""},
	} {
		before := fmt.Sprintf("%+v %+v", c.record, c.record.Attempt)
		d := Decide(c.record, partition(c.seen))
		if got := short(d); got != c.want {
			t.Errorf("%s: %s\nwant %s", c.name, got, c.want)
		}
		if got := d.Record.last().Reason; !strings.Contains(got, c.reason) {
			t.Errorf("%s: reason %q, want %q", c.name, got, c.reason)
		}
		if fmt.Sprintf("%+v %+v", c.record, c.record.Attempt) != before {
			t.Errorf("%s: the record that was given was changed", c.name)
		}
	}
}

// Without state on a disk a trial has failed, whatever the record in memory says.
func TestDecideWithoutState(t *testing.T) {
	for _, r := range []Record{{State: release.StateIdle}, {State: release.StateTrying, Attempt: to11(started)}} {
		s := partition("1.1.0+2-1* 1.0.0")
		s.Persistent = false
		if got := short(Decide(r, s)); got != "retire 1.1.0, trying, under way, reboot" {
			t.Error(got)
		}
	}
}

// The loader fails with a damaged file, or passes it over.
func TestDecideDamage(t *testing.T) {
	for _, slots := range []string{"1.1.0+0-3 1.0.0*", "1.1.0+3-0 1.0.0*"} {
		s := partition(slots)
		r := Record{State: release.StateStaged, Attempt: to11()}
		if !wantsCheck(r, s) {
			t.Error("the file is not looked at")
		}
		s.Damage = "it is damaged"
		d := Decide(r, s)
		if e := d.Record.last(); e.Result != RolledBack || !strings.Contains(e.Reason, "the file on the boot partition is damaged") {
			t.Errorf("%s: %+v", slots, e)
		}
	}
}

// What the kernel could still say is in the reason.
func TestDecideDeath(t *testing.T) {
	s := partition("1.1.0+0-3 1.0.0*")
	s.Died = "Panic: Attempted to kill init!"
	d := Decide(Record{State: release.StateStaged, Attempt: to11()}, s)
	if !strings.HasSuffix(d.Record.last().Reason, "; a kernel ended with Panic: Attempted to kill init!") {
		t.Errorf("%+v", d.Record.last())
	}
}

// Every place in the record, with every boot partition, leads to rest within a few boots
// when the loader does its part.
func TestDecideEnds(t *testing.T) {
	n := 0
	for _, state := range []release.State{release.StateIdle, release.StateStaged, release.StateTrying, release.StateCommitted, release.StateRolledBack} {
		for _, attempt := range []*Attempt{nil, to11(), to11(started), to11(broken), to11(func(a *Attempt) { a.How, a.Failed = Rollback, "by hand" }), to11(func(a *Attempt) { a.Leaving, a.Passed = 3, 3 })} {
			for _, slots := range []string{"1.0.0*", "1.1.0*", "1.0.0* 1.1.0", "1.1.0* 1.0.0", "1.1.0+3-0 1.0.0*", "1.1.0+2-1* 1.0.0", "1.1.0+0-3* 1.0.0", "1.1.0+0-3 1.0.0*", "1.1.0+0-0* 1.0.0", "1.1.0+1-2*", "1.1.0+0-3* 1.0.0+0-3", "1.2.0* 1.1.0 1.0.0"} {
				for _, persistent := range []bool{true, false} {
					s := partition(slots)
					s.Persistent = persistent
					n++
					ends(t, fmt.Sprint(state, " ", attempt, " ", slots), Record{State: state, Attempt: attempt}, s)
				}
			}
		}
	}
	if n != 720 {
		t.Errorf("%d cases", n)
	}
}

func ends(t *testing.T, name string, r Record, s Seen) {
	t.Helper()
	for boot := range 8 {
		s.Boot = fmt.Sprint("b", 10+boot)
		d := Decide(r, s)
		if d.Reboot == d.Settled && !d.Try || d.Try && (d.Reboot || d.Settled) {
			t.Fatalf("%s: %s: neither stays nor goes", name, short(d))
		}
		if d.Settled && !d.Try {
			return
		}
		if d.Retire == s.Running.Version {
			if _, ok := s.other(); !ok {
				t.Fatalf("%s: the only slot is retired", name)
			}
		}
		r = d.Record
		if d.Try { // it never gets well
			r.Attempt.Failed = "not well"
			d = leave(r, s)
			if r = d.Record; d.Settled {
				return
			}
		}
		other, _ := s.other()
		for i := range s.Slots { // the loader starts the other one
			x := &s.Slots[i]
			if x.Version == d.Retire {
				x.Trial, x.TriesLeft, x.Bad = true, 0, true
			}
			if x.Running = x.Version == other.String(); x.Running {
				s.Running = *x
			}
		}
	}
	t.Errorf("%s: no end", name)
}

func TestSurplus(t *testing.T) {
	for _, c := range []struct {
		slots string
		all   bool
		want  string
	}{
		{"1.0.0*", false, ""},
		{"1.0.0* 0.9.0", false, ""},
		{"1.0.0* 0.9.0 0.8.0", false, "0.8.0"},
		{"1.0.0* 0.9.0 0.10.0", false, "0.9.0"},
		{"1.0.0* 1.1.0+2-0 0.9.0", false, "1.1.0"},
		{"1.0.0* 1.0.5+0-3 0.9.0", false, "1.0.5"},
		{"1.0.0* 0.9.0 other", false, "other"},
		{"1.0.0* 0.9.0", true, "0.9.0"},
		{"1.0.0*", true, ""},
	} {
		if got := strings.Join(surplus(partition(c.slots).Slots, "1.1.0", c.all), " "); got != c.want {
			t.Errorf("%s, all %v: %q, want %q", c.slots, c.all, got, c.want)
		}
	}
}

// The record stays small, whatever it is told, and comes back as it was.
func TestRecordBounds(t *testing.T) {
	r := Record{State: release.StateIdle}
	for i := range 100 {
		r.Attempt = to11(func(a *Attempt) { a.To = release.Version{Days: i} })
		r.avoid(strings.Repeat("x", 5000), when)
		r.end(release.StateRolledBack, RolledBack, strings.Repeat("ä", 5000), when)
	}
	r.Attempt = to11(func(a *Attempt) {
		a.Baseline = slices.Concat([]byte(`"`), []byte(strings.Repeat("b", maxBaseline-2)), []byte(`"`))
	})
	file := filepath.Join(t.TempDir(), "record.json")
	if err := r.save(file); err != nil {
		t.Fatal(err)
	}
	got, err := load(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, got); diff != "" {
		t.Error(diff)
	}
	if len(r.History) != maxHistory || len(r.Avoid) != maxAvoided {
		t.Errorf("%d entries, %d avoided", len(r.History), len(r.Avoid))
	}
}
