// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"wherry.example/wherry/release"
)

// What a record said of going back before it knew more: the way it was begun is enough.
func TestOldRecordOfARollback(t *testing.T) {
	file := filepath.Join(t.TempDir(), "record.json")
	if err := writeFile(file, `{"state":"rolled-back","avoid":[{"version":"1.1.0","reason":"rolled back by hand","at":"2026-11-21T10:00:00Z"}],
		"history":[{"from":"1.1.0","to":"1.0.0","how":"rollback","by":"ada","result":"rolled back","reason":"rolled back by hand by ada","begun":"2026-11-21T10:00:00Z","ended":"2026-11-21T10:01:00Z","fetched":0,"bytes":0}],
		"reported":{"id":"x","version":"1.0.0","edition":"core","arch":"amd64","channel":"stable","state":"rolled-back"}}`); err != nil {
		t.Fatal(err)
	}
	r, err := load(file)
	if err != nil || len(r.Avoid) != 1 || r.Avoid[0].Version != v("1.1.0") || r.Avoid[0].ByHand {
		t.Fatalf("%+v, %v", r, err)
	}
	left := v("1.1.0")
	want := release.Report{Version: v("1.0.0"), Channel: release.Stable, State: release.StateRolledBack, Target: &left, ByHand: true, Reason: "rolled back by hand"}
	if diff := cmp.Diff(want, reportOf(r, v("1.0.0"), release.Stable)); diff != "" {
		t.Error(diff)
	}
	if !r.tell(1)[0].ByHand {
		t.Error("the API says that it was not by hand")
	}
	r.History[0].Result = Stayed // the loader did not let go of it: it runs
	if got := reportOf(r, v("1.1.0"), release.Stable); got.State != release.StateIdle {
		t.Errorf("reported %+v", got)
	}
}

// What checks print is the work's: it is bounded, and what failed is kept first.
func TestKeptChecks(t *testing.T) {
	few := []Check{{Name: "a", Well: true, Message: "PONG"}, {Name: "b", Message: "gone"}, {Name: "c", Well: true}}
	if diff := cmp.Diff([]Check{few[1], few[0], few[2]}, kept(few)); diff != "" {
		t.Error(diff)
	}
	var many []Check
	for n := range 1000 {
		many = append(many, Check{Name: fmt.Sprint(n, strings.Repeat("n", 1000)), Message: strings.Repeat("<", 600), Well: n != 999})
	}
	got := kept(many)
	bytes := 0
	for _, c := range got {
		bytes += len(c.Name) + len(c.Message)
	}
	if len(got) != maxChecks || bytes > 12<<10 || got[0].Well || !strings.HasPrefix(got[0].Name, "999") || len(got[0].Message) != 600 {
		t.Errorf("%d checks of %d bytes, the first %+v", len(got), bytes, got[0])
	}
	if !many[0].Well || len(many[0].Message) != 600 {
		t.Error("what was given was changed")
	}
}

// A record that is too long would be taken for none: the oldest checks go first.
func TestRecordOfManyChecks(t *testing.T) {
	var r Record
	for range maxHistory {
		checks := make([]Check, maxChecks)
		for i := range checks {
			checks[i] = Check{Name: strings.Repeat("<", 100), Message: strings.Repeat("<", 300)}
		}
		r.History = append(r.History, Entry{From: v("1.0.0"), To: v("1.1.0"), Checks: kept(checks)})
	}
	file := filepath.Join(t.TempDir(), "record.json")
	if err := r.save(file); err != nil {
		t.Fatal(err)
	}
	got, err := load(file)
	if err != nil || len(got.History) != maxHistory || len(got.History[0].Checks) != maxChecks || len(got.History[maxHistory-1].Checks) != 0 {
		t.Errorf("%d entries: %v", len(got.History), err)
	}
	if len(r.History[maxHistory-1].Checks) == 0 {
		t.Error("saving changed the record")
	}
}
