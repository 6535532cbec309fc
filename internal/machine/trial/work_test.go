// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package trial

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/config"
)

// The work runs from the last start of a container on, as far as the looks bear the container's clock out.
func TestWork(t *testing.T) {
	boot := time.Unix(1000, 0)
	type look struct {
		second int
		starts []int // by the clock; none: not all run
		want   int   // for how long all have run
	}
	for name, looks := range map[string][]look{
		"runs at the first look":              {{20, []int{5, 12}, 8}, {24, []int{5, 12}, 12}},
		"comes between two looks":             {{5, nil, 0}, {8, []int{3, 6}, 2}},
		"falls over between two":              {{5, []int{3}, 2}, {8, []int{7}, 1}, {9, []int{7}, 2}},
		"falls over, is seen":                 {{5, []int{3}, 2}, {8, nil, 0}, {11, []int{9}, 2}},
		"the clock was set forward by years":  {{5, nil, 0}, {8, []int{-900e6}, 3}, {9, []int{-900e6}, 4}},
		"… before the first look":             {{20, []int{-900e6}, 20}},
		"the clock was set back after it ran": {{5, nil, 0}, {8, []int{900e6}, 0}, {12, []int{900e6}, 4}},
		"the clock was set while it ran":      {{5, []int{3}, 2}, {9, []int{3}, 6}},
	} {
		w := work{booted: boot}
		for _, l := range looks {
			at := boot.Add(time.Duration(l.second) * time.Second)
			var starts []time.Time
			for _, s := range l.starts {
				starts = append(starts, boot.Add(time.Duration(s)*time.Second))
			}
			w.note(starts, len(l.starts) > 0, at)
			got := time.Duration(0)
			if !w.since.IsZero() {
				got = at.Sub(w.since)
			}
			if want := time.Duration(l.want) * time.Second; got != want {
				t.Errorf("%s: at %d: %s, want %s", name, l.second, got, want)
			}
		}
	}
}

// Health and checks have no part in it, nor has what somebody stopped, nor a job that is done.
func TestWorkOfContainers(t *testing.T) {
	stopped := vessel("a", exited, none, 2)
	stopped.State.StoppedByUser = true
	done := vessel("a", exited, none, 2)
	done.OnFailure = true
	for name, c := range map[string]struct {
		now    Container
		starts int
		all    bool
	}{
		"ill":             {vessel("a", running, unhealthy, 2), 1, true},
		"not yet":         {vessel("a", wherryv1.ContainerPhase_CONTAINER_PHASE_STARTING, none, 1), 0, false},
		"gone":            {vessel("b", running, none, 2), 0, false},
		"stopped by hand": {stopped, 0, true},
		"a job":           {done, 0, true},
	} {
		var h history
		before := baselineOf(nil, nil, "", []Container{vessel("a", running, healthy, 1)})
		h.judgeContainers(before, []Container{c.now}, time.Now())
		if starts, all := h.starts(before, []Container{c.now}); len(starts) != c.starts || all != c.all {
			t.Errorf("%s: %v, all %v", name, starts, all)
		}
	}
}

// A container that waits for its turn after the machine's start is not started anew when it has it.
func TestFirstStart(t *testing.T) {
	var h history
	before := baselineOf(nil, nil, "", []Container{vessel("a", running, none, 1)})
	now := time.Now()
	for i, c := range []Container{vessel("a", wherryv1.ContainerPhase_CONTAINER_PHASE_STARTING, none, 1), vessel("a", running, none, 2), vessel("a", running, none, 2)} {
		h.note(now, h.judgeContainers(before, []Container{c}, now.Add(time.Duration(i)*time.Second)))
	}
	if got := h.needed(time.Second); got != time.Second {
		t.Errorf("it must stay up for %s", got)
	}
	h.judgeContainers(before, []Container{vessel("a", running, none, 3)}, now)
	if got := h.needed(time.Second); got != 2*time.Second {
		t.Errorf("after it fell over it must stay up for %s", got)
	}
}

// A check that never holds keeps a release from staying, and nobody waiting after the machine went back.
func TestReturn(t *testing.T) {
	r := newRig(t, config.TrialCheck{Name: "never"})
	before, err := r.Baseline(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var last Report
	note := func(report Report) { last = report }
	if err := r.Wait(t.Context(), before, 500*time.Millisecond, note); err == nil {
		t.Error("the check holds, so that this proves nothing")
	}
	if err := r.Return(t.Context(), before, 10*time.Second, note); err != nil || len(last.Results) != 5 {
		t.Errorf("%v, %+v", err, last)
	}
	r.run(vessel("a", exited, none, 1))
	if err := r.Return(t.Context(), before, 500*time.Millisecond, note); err == nil {
		t.Error("what ran before does not run, and nobody waits for it")
	}
}

// What is reported is for how long the work has run, and not for how long all has been well.
func TestReportedWork(t *testing.T) {
	r := newRig(t)
	before, err := r.Baseline(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := vessel("a", running, starting, 0)
	c.State.StartedAt = timestamppb.New(time.Now().Add(-time.Second))
	r.run(c)
	looks, last := 0, Report{}
	err = r.Wait(t.Context(), before, 20*time.Second, func(report Report) {
		if looks++; looks == 2 {
			c.State.Health = healthy
			r.run(c)
		}
		last = report
	})
	if err != nil || last.Needed != 300*time.Millisecond || last.Held < last.Needed || last.Working < time.Second || last.Working < last.Held+250*time.Millisecond {
		t.Errorf("%+v, %v", last, err)
	}
}
