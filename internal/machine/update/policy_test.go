// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/config"
	"wherry.example/wherry/release"
)

func at(t *testing.T, s string) time.Time {
	t.Helper()
	x, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestWindow(t *testing.T) {
	night := config.Window{Start: "02:30", Length: 2 * time.Hour, TimeZone: "Europe/Berlin"}
	for _, c := range []struct {
		name             string
		window           config.Window
		now, start, ends string
	}{
		{"before it", night, "2027-01-10T00:00:00Z", "2027-01-10T01:30:00Z", "2027-01-10T03:30:00Z"},
		{"in it", night, "2027-01-10T02:00:00Z", "2027-01-10T01:30:00Z", "2027-01-10T03:30:00Z"},
		{"at its end", night, "2027-01-10T03:30:00Z", "2027-01-11T01:30:00Z", "2027-01-11T03:30:00Z"},
		{"in summer", night, "2027-07-10T00:00:00Z", "2027-07-10T00:30:00Z", "2027-07-10T02:30:00Z"},
		// On 2027-03-28 the clocks go from 02:00 to 03:00: 02:30 is never shown.
		{"clocks set forward", night, "2027-03-27T23:00:00Z", "2027-03-28T01:00:00Z", "2027-03-28T03:00:00Z"},
		{"the night after", night, "2027-03-28T23:00:00Z", "2027-03-29T00:30:00Z", "2027-03-29T02:30:00Z"},
		// On 2027-10-31 they go from 03:00 to 02:00: 02:30 is shown twice, and the first counts.
		{"clocks set back", night, "2027-10-30T23:00:00Z", "2027-10-31T00:30:00Z", "2027-10-31T02:30:00Z"},
		{"across midnight", config.Window{Start: "23:00", Length: 3 * time.Hour}, "2027-01-10T01:00:00Z", "2027-01-09T23:00:00Z", "2027-01-10T02:00:00Z"},
		{"some days", config.Window{Days: []string{"mon", "fri"}, Start: "23:00", Length: 3 * time.Hour}, "2027-01-10T01:00:00Z", "2027-01-11T23:00:00Z", "2027-01-12T02:00:00Z"},
		{"days are the zone's", config.Window{Days: []string{"sun"}, Start: "06:00", Length: time.Hour, TimeZone: "Pacific/Auckland"}, "2027-01-08T00:00:00Z", "2027-01-09T17:00:00Z", "2027-01-09T18:00:00Z"},
		{"all day", config.Window{Days: []string{"sat"}}, "2027-01-10T01:00:00Z", "2027-01-16T00:00:00Z", "2027-01-17T00:00:00Z"},
	} {
		w, err := newWindow(c.window)
		if err != nil {
			t.Fatal(err)
		}
		start, end := w.around(at(t, c.now))
		if !start.Equal(at(t, c.start)) || !end.Equal(at(t, c.ends)) {
			t.Errorf("%s: %s to %s, want %s to %s", c.name, start.UTC(), end.UTC(), c.start, c.ends)
		}
	}
	for _, bad := range []config.Window{{Start: "25:00"}, {Start: "2", Length: time.Hour}, {Days: []string{"someday"}}, {Start: "02:00", TimeZone: "Mars/Olympus"}} {
		if _, err := newWindow(bad); err == nil {
			t.Errorf("%+v is a window", bad)
		}
	}
}

// Whatever the zone and the moment, the window that is found ends after it, is of the right length,
// and begins when the clocks there show its start or were just set past it.
func TestWindowEverywhere(t *testing.T) {
	for _, zone := range []string{"Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "America/Santiago", "Asia/Kolkata", "Europe/Dublin"} {
		w, err := newWindow(config.Window{Start: "02:15", Length: 90 * time.Minute, TimeZone: zone})
		if err != nil {
			t.Fatal(err)
		}
		last := time.Time{}
		for now := at(t, "2027-01-01T00:00:00Z"); now.Year() == 2027; now = now.Add(17 * time.Minute) {
			start, end := w.around(now)
			if !end.After(now) || end.Sub(start) != 90*time.Minute || start.Sub(now) > 25*time.Hour {
				t.Fatalf("%s: at %s: %s to %s", zone, now, start, end)
			}
			if start.Before(last) {
				t.Fatalf("%s: at %s the window went back from %s to %s", zone, now, last, start)
			}
			local, before := start.In(w.zone), start.Add(-time.Minute).In(w.zone)
			shown := local.Hour() == 2 && local.Minute() == 15
			jumped := before.Hour()*60+before.Minute() < 2*60+15 && local.Hour()*60+local.Minute() > 2*60+15
			if !shown && !jumped {
				t.Fatalf("%s: at %s it begins at %s", zone, now, local)
			}
			last = start
		}
	}
}

func settings(t *testing.T, c config.Updates) Settings {
	t.Helper()
	s, err := settingsOf(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNext(t *testing.T) {
	now := at(t, "2027-01-10T12:00:00Z")
	rel := release.Release{Version: v("12.0.0"), Published: now.Add(-time.Hour), Channels: map[release.Channel]release.Rollout{release.Stable: {Percent: 100, Start: now.Add(-time.Minute)}}}
	night := config.Window{Start: "02:00", Length: 2 * time.Hour}
	for _, c := range []struct {
		name   string
		config config.Updates
		paused *Pause
		want   string
	}{
		{"automatic", config.Updates{}, nil, "download, apply now"},
		{"manual", config.Updates{Mode: "manual"}, nil, ": updates are taken by hand here (mode manual)"},
		{"download-only", config.Updates{Mode: "download-only"}, nil, "download: it waits for somebody to apply it (mode download-only)"},
		{"paused", config.Updates{}, &Pause{}, ": updates are paused until somebody resumes them"},
		{"paused for a while", config.Updates{}, &Pause{now.Add(time.Hour)}, ", at 13:00: updates are paused until 2027-01-10 13:00 UTC"},
		{"the pause is over", config.Updates{}, &Pause{now.Add(-time.Hour)}, "download, apply now"},
		{"outside of the window", config.Updates{Window: night}, nil, "download, at 02:00: this machine's turn is at 2027-01-11 02:00 UTC"},
		{"in the window", config.Updates{Window: config.Window{Start: "11:00", Length: 2 * time.Hour}}, nil, "download, apply now"},
	} {
		n := settings(t, c.config).next("id", rel, c.paused, now)
		got := ""
		if n.Download {
			got = "download"
		}
		switch {
		case n.Apply && n.At.Equal(now):
			got += ", apply now"
		case n.Apply:
			got += ", apply at another time"
		case !n.At.IsZero():
			got += ", at " + n.At.Format("15:04")
		}
		if n.Why != "" {
			got += ": " + n.Why
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// A spread scatters machines over its length, each always at the same time,
// within windows if there are any.
func TestSpread(t *testing.T) {
	start := at(t, "2027-01-10T12:00:00Z")
	rel := release.Release{Version: v("12.0.0"), Channels: map[release.Channel]release.Rollout{release.Stable: {Percent: 100, Start: start}}}
	free := settings(t, config.Updates{Spread: 10 * time.Hour})
	windowed := settings(t, config.Updates{Spread: time.Hour, Window: config.Window{Start: "02:00", Length: 4 * time.Hour}})
	var hours [10]int
	var quarters [4]int
	for i := range 4000 {
		id := fmt.Sprint("machine ", i)
		first := free.begin(id, rel, start)
		if later := free.begin(id, rel, start.Add(time.Minute)); !later.Equal(first) && first.After(start.Add(time.Minute)) {
			t.Fatalf("%s: %s, and later %s", id, first, later)
		}
		hours[int(first.Sub(start).Hours())]++
		opens := at(t, "2027-01-11T02:00:00Z")
		in := windowed.begin(id, rel, start)
		if in.Before(opens) || !in.Before(opens.Add(time.Hour)) {
			t.Fatalf("%s goes at %s", id, in)
		}
		quarters[int(in.Sub(opens)/(15*time.Minute))]++
	}
	for _, n := range hours {
		if n < 320 || n > 480 {
			t.Errorf("machines by hour: %v", hours)
		}
	}
	for _, n := range quarters {
		if n < 850 || n > 1150 {
			t.Errorf("machines by quarter: %v", quarters)
		}
	}
	if late := free.begin("id", rel, start.Add(48*time.Hour)); !late.Equal(start.Add(48 * time.Hour)) {
		t.Errorf("a machine that was off waits until %s", late)
	}
}

// A machine that looks again and again does get its turn, in every window.
func TestTurnComes(t *testing.T) {
	start := at(t, "2027-03-26T12:00:00Z")
	rel := release.Release{Version: v("12.0.0"), Published: start}
	for i, zone := range []string{"Europe/Berlin", "America/Santiago", "UTC"} {
		s := settings(t, config.Updates{Spread: 30 * time.Hour, Window: config.Window{Start: "02:15", Length: 10 * time.Minute, TimeZone: zone}})
		for m := range 50 {
			id, done := fmt.Sprint(i, m), false
			for now, n := start, 0; !done && n < 500; n++ {
				next := s.next(id, rel, nil, now)
				if done = next.Apply; done {
					if a, b := s.Window.around(now); now.Before(a) || !now.Before(b) {
						t.Fatalf("%s: at %s, outside of %s to %s", zone, now, a, b)
					}
				}
				if wait := next.At.Sub(now); wait < time.Hour {
					now = next.At
				} else {
					now = now.Add(time.Hour)
				}
			}
			if !done {
				t.Fatalf("%s: machine %d never", zone, m)
			}
		}
	}
}

func TestPause(t *testing.T) {
	for failures, want := range map[int]time.Duration{0: time.Hour, 1: time.Minute, 2: 2 * time.Minute, 5: 16 * time.Minute, 9: 256 * time.Minute, 10: 6 * time.Hour, 1000: 6 * time.Hour} {
		for range 100 {
			if got := pause(failures); got < want*3/4 || got > want*5/4 {
				t.Errorf("after %d failures %s, want about %s", failures, got, want)
			}
		}
	}
}

func TestClockTrouble(t *testing.T) {
	now := at(t, "2027-01-10T12:00:00Z")
	for _, c := range []struct {
		floor time.Time
		set   bool
		want  string
	}{
		{now.Add(time.Hour), true, "which is before 2027-01-10 13:00 UTC, when its release was made"},
		{now.Add(-time.Hour), false, "no time server has confirmed it"},
		{now.Add(-time.Hour), true, ""},
	} {
		if got := clockTrouble(now, c.floor, c.set); !strings.Contains(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
