// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"wherry.example/wherry/release"
)

func version(t *testing.T, s string) release.Version {
	t.Helper()
	v, err := release.ParseVersion(s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVersions(t *testing.T) {
	order := []string{"0.0.0", "0.0.1", "0.1.0", "1.0.0", "2.0.0", "9.9.9", "12.0.0", "12.0.10", "12.1.0", "12.10.0", "100.0.0"}
	for i, a := range order {
		for j, b := range order {
			if got, want := version(t, a).Compare(version(t, b)), int(math.Copysign(1, float64(i-j))); i != j && got != want || i == j && got != 0 {
				t.Errorf("%s and %s: %d", a, b, got)
			}
		}
	}
	for _, bad := range []string{"", "1", "1.2", "1.2.3.4", "01.0.0", "1.-1.0", "1.0.0-rc1", "v1.0.0", "1.0.0 ", "+1.0.0", "1000000.0.0", strings.Repeat("1", 99)} {
		if v, err := release.ParseVersion(bad); err == nil {
			t.Errorf("%q is %v", bad, v)
		}
	}
	for at, want := range map[time.Time]int{
		release.Epoch: 0, release.Epoch.Add(day - 1): 0, release.Epoch.Add(day): 1,
		time.Date(2026, 12, 2, 23, 0, 0, 0, time.UTC):                         12,
		time.Date(2026, 12, 2, 23, 0, 0, 0, time.FixedZone("west", -8*60*60)): 13,
		time.Date(2028, 11, 20, 0, 0, 0, 0, time.UTC):                         731,
	} {
		if got := release.DaysOn(at); got != want {
			t.Errorf("%v: day %d, want %d", at, got, want)
		}
	}
}

func TestRolloutTable(t *testing.T) {
	start := release.Epoch.Add(20 * day)
	v := version(t, "12.0.0")
	place := release.Place("machine", v)
	for _, c := range []struct {
		name    string
		percent int
		now     time.Time
		want    bool
	}{
		{"all", 100, start, true},
		{"none", 0, start.Add(day), false},
		{"before the start", 100, start.Add(-release.ClockTolerance - 1), false},
		{"by a clock that is behind", 100, start.Add(-release.ClockTolerance), true},
		{"at its place", place, start, false},
		{"above its place", place + 1, start, true},
	} {
		if got := (release.Rollout{Percent: c.percent, Start: start}).Includes("machine", v, c.now); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	for _, bad := range []int{-1, 101} {
		if (release.Rollout{Percent: bad}).Validate() == nil {
			t.Errorf("%d percent", bad)
		}
	}
}

// The place of a machine must never change: a release would else go to others
// when machines and publishers are of different versions.
func TestPlaceIsFixed(t *testing.T) {
	for id, want := range map[string]int{"": 95, "a": 79, "4f0c6d1e": 73} {
		if got := release.Place(id, release.Version{Days: 12}); got != want {
			t.Errorf("%q: %d, want %d", id, got, want)
		}
	}
}

// Widening keeps who was in.
func TestRolloutIsMonotonic(t *testing.T) {
	rule := func(id string, minor uint8, a, b uint8) bool {
		v := release.Version{Days: 12, Minor: int(minor)}
		low, high := int(min(a, b))%101, int(max(a, b))%101
		if low > high {
			low, high = high, low
		}
		now := release.Epoch
		return !(release.Rollout{Percent: low}).Includes(id, v, now) || (release.Rollout{Percent: high}).Includes(id, v, now)
	}
	if err := quick.Check(rule, &quick.Config{MaxCount: 20000}); err != nil {
		t.Error(err)
	}
}

// A percentage is one, within one percent of 100,000 machines, whatever ids
// look like, and who is first differs from release to release.
func TestRolloutIsUniform(t *testing.T) {
	const machines = 100_000
	for name, id := range map[string]string{"counted": "machine-%d", "hex": "%032x", "address": "52:54:00:%06x"} {
		var counts [100]int
		both := 0
		for i := range machines {
			m := fmt.Sprintf(id, i)
			place := release.Place(m, release.Version{Days: 12})
			counts[place]++
			if place < 10 && release.Place(m, release.Version{Days: 13}) < 10 {
				both++
			}
		}
		sum := 0
		for p, n := range counts {
			sum += n
			if off := math.Abs(float64(sum)/machines - float64(p+1)/100); off > 0.01 {
				t.Errorf("%s: %d percent is %.2f", name, p+1, float64(sum)/machines*100)
			}
			if n < 800 || n > 1200 {
				t.Errorf("%s: place %d has %d machines", name, p, n)
			}
		}
		if both < 800 || both > 1200 { // 1 percent, if the two are independent
			t.Errorf("%s: %d machines are among the first tenth twice", name, both)
		}
	}
}

func TestChoose(t *testing.T) {
	now := release.Epoch.Add(100 * day)
	full := release.Rollout{Percent: 100}
	rel := func(v string, channels ...release.Channel) release.Release {
		r := release.Release{Version: version(t, v), Edition: "core", Arch: "amd64", Channels: map[release.Channel]release.Rollout{}}
		for _, c := range channels {
			r.Channels[c] = full
		}
		return r
	}
	withdrawn := rel("15.0.0", release.Stable)
	withdrawn.Withdrawn = &release.Withdrawal{At: now, Reason: "bad disk driver"}
	halted := rel("16.0.0", release.Stable)
	halted.Channels[release.Stable] = release.Rollout{Percent: 0}
	later := rel("17.0.0", release.Stable)
	later.Channels[release.Stable] = release.Rollout{Percent: 100, Start: now.Add(time.Hour)}
	soon := rel("17.5.0", release.Stable)
	soon.Channels[release.Stable] = release.Rollout{Percent: 100, Start: now.Add(release.ClockTolerance)}
	docker := rel("18.0.0", release.Stable)
	docker.Edition = "docker"
	arm := rel("18.0.0", release.Stable)
	arm.Arch = "arm64"
	base := []release.Release{rel("12.0.0", release.Alpha, release.Beta, release.Stable), rel("13.0.0", release.Alpha, release.Beta, release.Stable), rel("14.0.0", release.Alpha)}
	avoid := func(v string) []release.Avoided { return []release.Avoided{{Version: version(t, v)}} }
	day := time.Date(2027, 2, 1, 23, 0, 0, 0, time.UTC)
	broken := []release.Avoided{{Version: version(t, "13.0.0"), Reason: "no network", At: day}}
	byHand := []release.Avoided{{Version: version(t, "13.0.0"), Reason: "rolled back by hand", At: day, ByHand: true}}
	pin := func(v string) *release.Version { p := version(t, v); return &p }
	for _, c := range []struct {
		name  string
		extra []release.Release
		m     release.Machine
		want  string
		why   string
	}{
		{"newest of the channel", nil, release.Machine{Channel: release.Stable, Current: version(t, "12.0.0")}, "13.0.0", ""},
		{"alpha sees more", nil, release.Machine{Channel: release.Alpha, Current: version(t, "12.0.0")}, "14.0.0", ""},
		{"runs it", nil, release.Machine{Channel: release.Stable, Current: version(t, "13.0.0")}, "", "13.0.0 runs already"},
		{"never older", nil, release.Machine{Channel: release.Stable, Current: version(t, "14.0.0")}, "", "13.0.0 is older than 14.0.0"},
		{"withdrawn", []release.Release{withdrawn}, release.Machine{Channel: release.Stable, Current: version(t, "13.0.0")}, "", "bad disk driver"},
		{"one below the withdrawn", []release.Release{withdrawn}, release.Machine{Channel: release.Stable, Current: version(t, "12.0.0")}, "13.0.0", ""},
		{"stays with the withdrawn", []release.Release{withdrawn}, release.Machine{Channel: release.Stable, Current: version(t, "15.0.0")}, "", "15.0.0 runs already"},
		{"halted", []release.Release{halted}, release.Machine{Channel: release.Stable, Current: version(t, "13.0.0")}, "", "0 percent"},
		{"not yet", []release.Release{later}, release.Machine{Channel: release.Stable, Current: version(t, "13.0.0")}, "", "from 2027-02-28 01:00:00 on"},
		{"a clock that is behind", []release.Release{soon}, release.Machine{Channel: release.Stable, Current: version(t, "13.0.0")}, "17.5.0", ""},
		{"did not work here", nil, release.Machine{Channel: release.Stable, Current: version(t, "12.0.0"), Avoid: avoid("13.0.0")}, "", "did not work here"},
		{"why it did not work", nil, release.Machine{Channel: release.Stable, Current: version(t, "12.0.0"), Avoid: broken}, "", "13.0.0 did not work here on 2027-02-01: no network"},
		{"left by hand", nil, release.Machine{Channel: release.Stable, Current: version(t, "12.0.0"), Avoid: byHand}, "",
			"somebody went back from 13.0.0 on 2027-02-01: it is left alone until there is a newer release, or: wherry machine update apply --retry"},
		{"pinned to one that was left by hand", nil, release.Machine{Channel: release.Stable, Current: version(t, "12.0.0"), Pin: pin("13.0.0"), Avoid: byHand}, "",
			"somebody went back from 13.0.0 on 2027-02-01: it is taken again by: wherry machine update apply --retry"},
		{"a newer one was left by hand", nil, release.Machine{Channel: release.Stable, Current: version(t, "11.0.0"), Avoid: []release.Avoided{{Version: version(t, "13.5.0"), At: day, ByHand: true}}}, "",
			"somebody went back from 13.5.0 on 2027-02-01, and 13.0.0 is older"},
		{"a newer one did not work here", nil, release.Machine{Channel: release.Stable, Current: version(t, "12.0.0"), Avoid: avoid("13.5.0")}, "", "13.5.0 did not work here, and 13.0.0 is older"},
		{"an older one did not work here", nil, release.Machine{Channel: release.Stable, Current: version(t, "12.0.0"), Avoid: avoid("12.5.0")}, "13.0.0", ""},
		{"pinned below one that did not work", nil, release.Machine{Channel: release.Stable, Current: version(t, "12.0.0"), Pin: pin("13.0.0"), Avoid: avoid("13.5.0")}, "13.0.0", ""},
		{"other images", []release.Release{docker, arm}, release.Machine{Channel: release.Stable, Current: version(t, "13.0.0")}, "", "runs already"},
		{"pinned", nil, release.Machine{Channel: release.Stable, Current: version(t, "12.0.0"), Pin: pin("14.0.0")}, "14.0.0", ""},
		{"pinned to what runs", nil, release.Machine{Channel: release.Stable, Current: version(t, "12.0.0"), Pin: pin("12.0.0")}, "", "runs already"},
		{"pinned to an older one", nil, release.Machine{Channel: release.Stable, Current: version(t, "13.0.0"), Pin: pin("12.0.0")}, "", "older"},
		{"pinned to nothing", nil, release.Machine{Channel: release.Stable, Current: version(t, "13.0.0"), Pin: pin("99.0.0")}, "", "not in the repository"},
		{"pinned to the withdrawn", []release.Release{withdrawn}, release.Machine{Channel: release.Stable, Current: version(t, "13.0.0"), Pin: pin("15.0.0")}, "", "bad disk driver"},
		{"pinned to a halted one", []release.Release{halted}, release.Machine{Channel: release.Stable, Current: version(t, "13.0.0"), Pin: pin("16.0.0")}, "16.0.0", ""},
	} {
		c.m.ID, c.m.Edition, c.m.Arch = "machine", "core", "amd64"
		got, found, why := release.Choose(append(c.extra, base...), c.m, now)
		if found != (c.want != "") || found && got.Version.String() != c.want || !strings.Contains(why, c.why) {
			t.Errorf("%s: %v %v %q", c.name, got.Version, found, why)
		}
	}
}
