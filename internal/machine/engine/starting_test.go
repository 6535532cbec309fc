// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"wherry.example/wherry/api/wherryv1"
)

// What comes back with the machine did not fail, and is shown as that, until it runs or fails.
func TestStartingWithTheMachine(t *testing.T) {
	const running, restarting, starting = wherryv1.ContainerPhase_CONTAINER_PHASE_RUNNING, wherryv1.ContainerPhase_CONTAINER_PHASE_RESTARTING, wherryv1.ContainerPhase_CONTAINER_PHASE_STARTING
	stopped := func(r *record) { r.State.Phase = wherryv1.ContainerPhase_CONTAINER_PHASE_EXITED }
	for _, tt := range []struct {
		name   string
		before func(*record)
		boot   string
		want   wherryv1.ContainerPhase
	}{
		{"after a shutdown", stopped, "before", starting},
		{"after a power cut", func(r *record) { r.State.Phase = running }, "before", starting},
		{"it ended while the engine was away", func(r *record) { r.State.Phase = running }, "now", restarting},
		{"it kept failing before the shutdown", func(r *record) { r.State.Phase, r.Failures = restarting, 3 }, "before", restarting},
	} {
		e := &Engine{log: slog.New(slog.DiscardHandler), bootID: "now", opts: Options{RunDir: t.TempDir()}, slots: make(chan struct{}, 1)}
		e.life, e.endLife = context.WithCancel(t.Context())
		e.endLife() // nothing is really started
		r := record{ID: strings.Repeat("a", 64), Name: tt.name, Stage: stageReady, WantRunning: true, BootID: tt.boot, Effective: &wherryv1.ContainerSpec{},
			Spec:  &wherryv1.ContainerSpec{Restart: &wherryv1.RestartPolicy{Kind: wherryv1.RestartPolicy_KIND_ALWAYS}},
			State: &wherryv1.ContainerState{StartedAt: timestamppb.New(time.Now().Add(-time.Hour))}}
		tt.before(&r)
		c := newContainer(r, t.TempDir())
		if err := r.save(c.dir); err != nil {
			t.Fatal(err)
		}
		if ran(r.State.Phase) {
			e.foundEnded(c, e.unseenEnd(c))
		}
		e.bringBack(c)
		if got := describe(c.record()).State.Phase; got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
		if kept, err := loadRecord(c.dir); err != nil || kept.State.Phase != restarting {
			t.Errorf("%s: the release before reads %v, %v", tt.name, kept, err)
		}
		e.table.add(c)
		if n := e.Counts(); n.Starting != map[bool]uint32{true: 1}[tt.want == starting] || n.Starting+n.Stopped != 1 {
			t.Errorf("%s: counted as %v", tt.name, n)
		}
		if list, _ := e.List(t.Context(), &wherryv1.ListContainersRequest{}); len(list) != 1 {
			t.Errorf("%s: it is not listed", tt.name)
		}
		e.conclude(c, end{code: 125, at: time.Now(), neverRan: true, note: "no such file"})
		if got := describe(c.record()).State.Phase; got != restarting {
			t.Errorf("%s: after a start that did not work: %v", tt.name, got)
		}
	}
}

// A container started when its program did: on a busy machine its root, its bundle and its
// network take longer than many programs run.
func TestStartedWhenItRuns(t *testing.T) {
	w := newWorld(t)
	id := w.createSpec(&wherryv1.ContainerSpec{Command: []string{"sleep"}})
	w.must(w.Start(t.Context(), id))
	if at := w.state(id).StartedAt.AsTime(); at.Before(w.net.last) || time.Since(at) > time.Minute {
		t.Errorf("it is said to have started at %s, and had no network until %s", at, w.net.last)
	}
}
