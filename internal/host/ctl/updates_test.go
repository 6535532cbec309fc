// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"wherry.example/wherry/api/wherryv1"
)

// toyUpdates answers with a script. Without one it is a machine of a release that knows no updates.
type toyUpdates struct {
	mu       sync.Mutex
	states   []*wherryv1.GetUpdateResponse // one after the other; the last stays
	progress []*wherryv1.UpdateProgress
	err      error // after the progress
	history  []*wherryv1.UpdateRecord
	check    *wherryv1.CheckUpdateResponse

	asked  *wherryv1.ApplyUpdateRequest
	start  *wherryv1.ApplyBundleStart
	bundle string
	pause  *wherryv1.PauseUpdatesRequest
}

func (u *toyUpdates) Update(context.Context) (*wherryv1.GetUpdateResponse, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.states) == 0 {
		return nil, errdefs.ErrNotImplemented
	}
	now := u.states[0]
	if len(u.states) > 1 {
		u.states = u.states[1:]
	}
	return now, nil
}

func (u *toyUpdates) CheckUpdate(context.Context) (*wherryv1.CheckUpdateResponse, error) {
	if u.check == nil {
		return nil, errdefs.ErrNotImplemented
	}
	return u.check, nil
}

func (u *toyUpdates) ApplyUpdate(_ context.Context, _ string, req *wherryv1.ApplyUpdateRequest, send func(*wherryv1.UpdateProgress) error) error {
	u.asked = req
	return u.tell(send)
}

func (u *toyUpdates) tell(send func(*wherryv1.UpdateProgress) error) error {
	for _, p := range u.progress {
		if err := send(p); err != nil {
			return err
		}
	}
	return u.err
}

func (u *toyUpdates) ApplyBundle(_ context.Context, _ string, start *wherryv1.ApplyBundleStart, bundle io.Reader, send func(*wherryv1.UpdateProgress) error) error {
	if u.err != nil && len(u.progress) == 0 {
		return u.err // before the file was read
	}
	data, err := io.ReadAll(bundle)
	if err != nil {
		return err
	}
	u.start, u.bundle = start, string(data)
	return u.tell(send)
}

func (u *toyUpdates) PauseUpdates(_ context.Context, req *wherryv1.PauseUpdatesRequest) error {
	u.pause = req
	return nil
}

func (u *toyUpdates) ResumeUpdates(context.Context) error {
	u.pause = nil
	return nil
}

func (u *toyUpdates) UpdateHistory(context.Context, uint32) ([]*wherryv1.UpdateRecord, error) {
	return u.history, nil
}

func (u *toyUpdates) Rollback(context.Context, string) (*wherryv1.RollbackResponse, error) {
	return &wherryv1.RollbackResponse{Version: "12.0.0"}, u.err
}

func at(minute int) *timestamppb.Timestamp {
	return timestamppb.New(testNow.Add(time.Duration(minute) * time.Minute))
}

var steps = []*wherryv1.UpdateProgress{
	{Phase: "downloading", Target: "12.1.0", Bytes: 0, TotalBytes: 1000, Delta: true},
	{Phase: "downloading", Target: "12.1.0", Bytes: 900, TotalBytes: 1000, Delta: true},
	{Phase: "staging", Target: "12.1.0"},
	{Phase: "rebooting", Target: "12.1.0"},
}

// old is an update that had ended before.
var old = &wherryv1.UpdateRecord{From: "11.0.0", To: "12.0.0", State: "committed", StartedAt: at(-60), EndedAt: at(-50)}

func states(end *wherryv1.UpdateRecord) []*wherryv1.GetUpdateResponse {
	return []*wherryv1.GetUpdateResponse{
		{Version: "12.0.0", Phase: "idle", Last: old},
		{Version: "12.1.0", Phase: "trying", Target: "12.1.0", Last: old, Trial: &wherryv1.UpdateTrial{Checks: []*wherryv1.UpdateCheck{{Name: "network", State: "passed"}, {Name: "shop", State: "waiting"}}}},
		{Version: map[bool]string{true: end.To, false: end.From}[end.State == "committed"], Phase: "idle", Last: end},
	}
}

func TestUpdateCommitted(t *testing.T) {
	r := newRig(t)
	r.toy.states = states(&wherryv1.UpdateRecord{From: "12.0.0", To: "12.1.0", State: "committed", StartedAt: at(0), EndedAt: at(1), Downtime: durationpb.New(14200 * time.Millisecond)})
	r.toy.progress = steps
	if err := r.ApplyUpdate(t.Context(), UpdateOptions{Version: "12.1.0", Wait: true, Timeout: time.Minute}); err != nil {
		t.Fatal(err)
	}
	if r.toy.asked.Version != "12.1.0" || r.toy.asked.StageOnly {
		t.Errorf("asked for %v", r.toy.asked)
	}
	_, said := r.took()
	want := `downloading 12.1.0
staging 12.1.0
machine demo is rebooting from 12.0.0 into 12.1.0
trying 12.1.0, waiting for shop
machine demo runs 12.1.0, down for 14.2 s
`
	if said != want {
		t.Errorf("said\n%s\nwant\n%s", said, want)
	}
}

// TestUpdateRolledBack also loses the connection when the machine goes down.
func TestUpdateRolledBack(t *testing.T) {
	r := newRig(t)
	r.JSON = true
	r.toy.states = states(&wherryv1.UpdateRecord{From: "12.0.0", To: "12.1.0", State: "rolled-back", Reason: "check shop failed", StartedAt: at(0), EndedAt: at(9),
		Checks: []*wherryv1.UpdateCheck{{Name: "network", State: "passed"}, {Name: "shop", State: "failed", Message: "HTTP 500\noops"}}})
	r.toy.progress, r.toy.err = steps, errdefs.ErrUnavailable
	err := r.ApplyUpdate(t.Context(), UpdateOptions{Wait: true, Timeout: time.Minute})
	want := "12.1.0 did not work on machine demo, which runs 12.0.0: check shop failed"
	if ExitCode(err) != 3 || err.Error() != want {
		t.Errorf("exit code %d, %v", ExitCode(err), err)
	}
	if out, _ := r.took(); !strings.Contains(out, `"state": "rolled-back"`) {
		t.Errorf("printed %s", out)
	}
}

// Who goes back during the trial is told so, and not that the release did not work.
func TestUpdateGivenUp(t *testing.T) {
	r := newRig(t)
	r.toy.states = states(&wherryv1.UpdateRecord{From: "12.0.0", To: "12.1.0", State: "rolled-back", Reason: "rolled back by hand", ByHand: true, StartedAt: at(0), EndedAt: at(9)})
	r.toy.progress, r.toy.err = steps, errdefs.ErrUnavailable
	err := r.ApplyUpdate(t.Context(), UpdateOptions{Wait: true, Timeout: time.Minute})
	if want := "somebody went back from 12.1.0 while machine demo tried it, which runs 12.0.0 again"; ExitCode(err) != 3 || err.Error() != want {
		t.Errorf("exit code %d, %v", ExitCode(err), err)
	}
}

func TestUpdateSilence(t *testing.T) {
	r := newRig(t)
	r.toy.states = states(old)[:2]
	r.toy.progress = steps
	err := r.ApplyUpdate(t.Context(), UpdateOptions{Wait: true, Timeout: 1200 * time.Millisecond})
	if ExitCode(err) != 4 || !strings.Contains(err.Error(), "machine demo did not say within 1.2s how the update ended") {
		t.Errorf("exit code %d, %v", ExitCode(err), err)
	}
	r.toy.states = states(old)[:2]
	if err := r.ApplyUpdate(t.Context(), UpdateOptions{}); err != nil {
		t.Errorf("without waiting: %v", err)
	}
}

func TestUpdateRefused(t *testing.T) {
	r := newRig(t)
	r.toy.err = errdefs.ErrFailedPrecondition.WithMessage("12.1.0 did not work here")
	for name, c := range map[string]struct {
		state *wherryv1.GetUpdateResponse
		want  string
	}{
		"by the machine": {&wherryv1.GetUpdateResponse{Version: "12.0.0"}, "12.1.0 did not work here"},
		"failed before":  {&wherryv1.GetUpdateResponse{Version: "12.0.0", Avoided: []string{"12.1.0"}}, "12.1.0 did not work here\n(--retry takes it all the same)"},
		"no way":         {&wherryv1.GetUpdateResponse{Unavailable: "it was booted without a boot partition"}, "machine demo cannot replace its release: it was booted without a boot partition"},
		"old machine":    {nil, "machine demo runs a release that cannot update itself"},
	} {
		r.toy.states = nil
		if c.state != nil {
			r.toy.states = []*wherryv1.GetUpdateResponse{c.state}
		}
		if err := r.ApplyUpdate(t.Context(), UpdateOptions{Wait: true}); ExitCode(err) != 1 || err.Error() != c.want {
			t.Errorf("%s: exit code %d, %v", name, ExitCode(err), err)
		}
	}
}

func TestUpdateBundle(t *testing.T) {
	r := newRig(t)
	file := filepath.Join(t.TempDir(), "12.1.0.wherry")
	content := strings.Repeat("0123456789abcdef", 100_000) // several messages
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	r.toy.states = []*wherryv1.GetUpdateResponse{{Version: "12.0.0"}, {Version: "12.0.0", Phase: "staged", Target: "12.1.0", Why: "it waits for somebody to apply it"}}
	r.toy.progress = []*wherryv1.UpdateProgress{{Phase: "staging", Target: "12.1.0"}, {Phase: "staged", Target: "12.1.0"}}
	if err := r.ApplyUpdate(t.Context(), UpdateOptions{File: file, StageOnly: true}); err != nil {
		t.Fatal(err)
	}
	out, said := r.took()
	if r.toy.bundle != content || !r.toy.start.StageOnly || r.toy.start.Bytes != uint64(len(content)) {
		t.Errorf("sent %v and %d bytes", r.toy.start, len(r.toy.bundle))
	}
	if out != "12.1.0 is staged, and the next restart tries it: it waits for somebody to apply it\n" || said != "sending 12.1.0.wherry\nstaging 12.1.0\nstaged 12.1.0\n" {
		t.Errorf("printed %q, said %q", out, said)
	}
	r.toy.progress, r.toy.err = nil, errdefs.ErrResourceExhausted.WithMessage("no room for it")
	if err := r.ApplyUpdate(t.Context(), UpdateOptions{File: file}); ExitCode(err) != 1 || err.Error() != "no room for it" {
		t.Errorf("refused early: %v", err)
	}
	for _, bad := range []string{filepath.Dir(file), file + "x"} {
		if err := r.ApplyUpdate(t.Context(), UpdateOptions{File: bad}); ExitCode(err) != 1 || !strings.HasPrefix(err.Error(), "read bundle: ") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestRollback(t *testing.T) {
	r := newRig(t)
	r.toy.states = []*wherryv1.GetUpdateResponse{{Version: "12.1.0", Last: old},
		{Version: "12.0.0", Last: &wherryv1.UpdateRecord{From: "12.1.0", To: "12.0.0", State: "rolled-back", Reason: "by hand", StartedAt: at(0), EndedAt: at(1)}}}
	if err := r.Rollback(t.Context(), true, time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, said := r.took(); !strings.HasSuffix(said, "machine demo runs 12.0.0 again\n") {
		t.Errorf("said %s", said)
	}
	r.toy.states = []*wherryv1.GetUpdateResponse{{Version: "12.1.0", Last: old},
		{Version: "12.1.0", Last: &wherryv1.UpdateRecord{From: "12.1.0", To: "12.0.0", State: "failed", Reason: "the loader started this release each time", StartedAt: at(0), EndedAt: at(1)}}}
	if err := r.Rollback(t.Context(), true, time.Minute); ExitCode(err) != 3 || err.Error() != "machine demo did not go back to 12.0.0 and runs 12.1.0: the loader started this release each time" {
		t.Errorf("exit code %d, %v", ExitCode(err), err)
	}
	back := func(returning *wherryv1.UpdateTrial, down *durationpb.Duration) *wherryv1.GetUpdateResponse {
		return &wherryv1.GetUpdateResponse{Version: "12.0.0", Returning: returning, Last: &wherryv1.UpdateRecord{From: "12.1.0", To: "12.0.0", State: "rolled-back", StartedAt: at(0), EndedAt: at(1), Downtime: down}}
	}
	shop := &wherryv1.UpdateTrial{Checks: []*wherryv1.UpdateCheck{{Name: "network", State: "passed"}, {Name: "container shop", State: "waiting"}}}
	well := &wherryv1.UpdateTrial{Checks: []*wherryv1.UpdateCheck{{Name: "container shop", State: "passed"}}}
	for want, script := range map[string][]*wherryv1.GetUpdateResponse{
		"back in 12.0.0, waiting for container shop\nback in 12.0.0\nmachine demo runs 12.0.0 again, down for 20.0 s\n": {
			{Version: "12.1.0", Last: old}, back(&wherryv1.UpdateTrial{}, nil), back(shop, nil), back(well, nil), back(nil, durationpb.New(20*time.Second))},
		"back in 12.0.0, waiting for container shop\nmachine demo: not all is as it was before: container shop\nmachine demo runs 12.0.0 again\n": {
			{Version: "12.1.0", Last: old}, back(shop, nil), back(nil, nil)},
	} {
		r.toy.states = script
		r.took()
		if err := r.Rollback(t.Context(), true, time.Minute); err != nil {
			t.Fatal(err)
		}
		if _, said := r.took(); !strings.HasSuffix(said, want) {
			t.Errorf("said\n%s\nwant\n%s", said, want)
		}
	}
	r.toy.states = []*wherryv1.GetUpdateResponse{{Version: "12.1.0", Last: old}, back(shop, nil)}
	if err := r.Rollback(t.Context(), true, 1200*time.Millisecond); err != nil {
		t.Errorf("it is back, and something never runs: %v", err)
	}
	if _, said := r.took(); !strings.Contains(said, "not all is as it was before: container shop\n") {
		t.Errorf("said %s", said)
	}
	r.toy.states = []*wherryv1.GetUpdateResponse{{Version: "12.1.0", Last: old}, back(nil, nil)}
	r.toy.err = errdefs.ErrFailedPrecondition.WithMessage("there is no other release")
	if err := r.Rollback(t.Context(), true, time.Minute); ExitCode(err) != 1 || err.Error() != "there is no other release" {
		t.Error(err)
	}
}

func TestPauseUpdates(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		length time.Duration
		date   string
		want   time.Time
	}{
		{0, "", time.Time{}},
		{2 * time.Hour, "", testNow.Add(2 * time.Hour)},
		{0, "2100-01-02T08:00:00Z", time.Date(2100, 1, 2, 8, 0, 0, 0, time.UTC)},
	} {
		if err := r.PauseUpdates(t.Context(), c.length, c.date); err != nil {
			t.Fatal(err)
		}
		if got := r.toy.pause.Until; got == nil != c.want.IsZero() || got != nil && !got.AsTime().Equal(c.want) {
			t.Errorf("%v %q: until %v, want %v", c.length, c.date, got, c.want)
		}
	}
	for _, bad := range []struct {
		length time.Duration
		date   string
	}{{-time.Hour, ""}, {time.Hour, "2100-01-01"}, {0, "2000-01-01"}, {0, "tomorrow"}} {
		if err := r.PauseUpdates(t.Context(), bad.length, bad.date); err == nil {
			t.Errorf("%v %q is taken", bad.length, bad.date)
		}
	}
	if err := r.ResumeUpdates(t.Context()); err != nil || r.toy.pause != nil {
		t.Error(err, r.toy.pause)
	}
}

func TestUpdateCheckAndHistory(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		check *wherryv1.CheckUpdateResponse
		want  string
	}{
		{&wherryv1.CheckUpdateResponse{Why: "12.0.0 runs already"}, "nothing to take: 12.0.0 runs already\n"},
		{&wherryv1.CheckUpdateResponse{Offer: &wherryv1.UpdateOffer{Version: "12.1.0", Bytes: 26_200_000, DeltaBytes: 30_000}, Why: "it waits for the window"},
			"12.1.0 is there, 26.2MB (30kB as a delta): it waits for the window\n"},
	} {
		r.toy.check = c.check
		if err := r.CheckUpdate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if out, _ := r.took(); out != c.want {
			t.Errorf("printed %q, want %q", out, c.want)
		}
	}
	r.toy.history = []*wherryv1.UpdateRecord{{From: "12.0.0", To: "12.1.0", State: "rolled-back", Reason: "no network\nmore", StartedAt: at(0), EndedAt: at(5), Delta: true, DownloadedBytes: 30_000, Source: "bundle"}, old,
		{From: "10.0.0", To: "11.0.0", State: "rolled-back", StartedAt: at(-99), EndedAt: at(-98), DeltaRefused: "it is damaged", Checks: []*wherryv1.UpdateCheck{
			{Name: "check shop", State: "failed", Message: "HTTP 500\noops"}, {Name: "network", State: "passed"}, {Name: "check cache", State: "passed", Message: "PONG"}}}}
	if err := r.UpdateHistory(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	out, _ := r.took()
	if !strings.HasSuffix(out, "\n  not as a delta: it is damaged\n  failed: check shop: HTTP 500\n    oops\n  well: network, check cache (PONG)\n") || strings.Count(out, "→") != 1 {
		t.Errorf("printed\n%s", out)
	}
	if lines := strings.Split(out, "\n"); len(lines) != 11 || !strings.Contains(lines[1], "rolled-back") || !strings.Contains(lines[1], "30kB as a delta") || !strings.HasSuffix(lines[1], "no network …") {
		t.Errorf("printed\n%s", out)
	}
}

func TestUpdateStatus(t *testing.T) {
	r := newRig(t)
	whole := &wherryv1.GetUpdateResponse{
		Version: "12.0.0", Phase: "staged", Target: "12.1.0", Why: "it waits for the window",
		Policy:    &wherryv1.UpdatePolicy{Url: "https://r.example", Channel: "stable", Mode: "automatic", Window: "sat 02:00 for 3h"},
		CheckedAt: at(-5), Paused: true,
		Last:  &wherryv1.UpdateRecord{From: "11.0.0", To: "12.0.0", State: "committed", StartedAt: at(-60), EndedAt: at(-50), Downtime: durationpb.New(9 * time.Second)},
		Slots: []*wherryv1.UpdateSlot{{Version: "12.0.0", File: "wherry_12.0.0.efi", Bytes: 26_200_000, Running: true}, {Version: "12.1.0", File: "wherry_12.1.0+3.efi", Bytes: 26_300_000, Trial: true, TriesLeft: 3, Next: true}},
		Trust: &wherryv1.UpdateTrust{SecureBoot: true, SignedBy: "CN=me"},
	}
	r.toy.states = []*wherryv1.GetUpdateResponse{whole}
	if err := r.UpdateStatus(t.Context()); err != nil {
		t.Fatal(err)
	}
	out, _ := r.took()
	want := `Release   12.0.0, verified by Secure Boot, signed by CN=me
Update    12.1.0 is staged, and the next restart tries it: it waits for the window
Policy    automatic, channel stable, from https://r.example, window sat 02:00 for 3h
Paused    until somebody resumes
Checked   5 minutes ago
Last      11.0.0 → 12.0.0 committed 50 minutes ago, down for 9.0 s
Slots     12.0.0  26.2MB  wherry_12.0.0.efi  running
          12.1.0  26.3MB  wherry_12.1.0+3.efi  on trial, 3 tries left  next
`
	if out != want {
		t.Errorf("printed\n%s\nwant\n%s", out, want)
	}
	if got, want := r.lastText(&wherryv1.UpdateRecord{From: "12.0.0", To: "12.1.0", State: "staging", StartedAt: at(-2), DownloadedBytes: 16_800, Delta: true}),
		"12.0.0 → 12.1.0 staging, begun 2 minutes ago, 16.8kB as a delta"; got != want {
		t.Errorf("what goes on is told as %q, want %q", got, want)
	}
	for _, c := range []struct {
		state *wherryv1.GetUpdateResponse
		want  string
	}{
		{&wherryv1.GetUpdateResponse{Phase: "staged", Target: "12.1.0", Why: "it waits for somebody to apply it", Last: &wherryv1.UpdateRecord{State: "staged", Source: "by hand"}},
			"12.1.0 is staged, and the next restart tries it"},
		{&wherryv1.GetUpdateResponse{Unavailable: "no boot partition"}, "not possible here: no boot partition"},
		{&wherryv1.GetUpdateResponse{Phase: "idle"}, "no repository is configured (updates.url)"},
		{&wherryv1.GetUpdateResponse{Phase: "idle", Policy: whole.Policy, Why: "12.0.0 runs already"}, "none: 12.0.0 runs already"},
		{&wherryv1.GetUpdateResponse{Phase: "idle", Policy: whole.Policy, CheckError: "expired\nmore"}, "the last check went wrong: expired …"},
		{&wherryv1.GetUpdateResponse{Phase: "downloading", Target: "12.1.0", Progress: &wherryv1.UpdateProgress{Phase: "downloading", Target: "12.1.0", Bytes: 1000, TotalBytes: 2000}},
			"downloading 12.1.0 [===============               ] 1kB/2kB"},
		{&wherryv1.GetUpdateResponse{Version: "12.0.0", Phase: "idle", Last: &wherryv1.UpdateRecord{From: "12.0.0", To: "12.1.0", State: "rolled-back", EndedAt: at(-5), Reason: "no network"}},
			"12.1.0 did not work 5 minutes ago: no network"},
		{&wherryv1.GetUpdateResponse{Version: "12.0.0", Phase: "idle", Last: &wherryv1.UpdateRecord{From: "12.0.0", To: "12.1.0", State: "rolled-back", EndedAt: at(-1), Reason: "no network"}},
			"12.1.0 did not work about a minute ago: no network"},
		{&wherryv1.GetUpdateResponse{Version: "12.0.0", Phase: "idle", Offer: &wherryv1.UpdateOffer{Version: "12.2.0", Bytes: 5000}, Last: &wherryv1.UpdateRecord{From: "12.0.0", To: "12.1.0", State: "rolled-back", EndedAt: at(-5), Reason: "no network"}},
			"12.1.0 did not work 5 minutes ago: no network; 12.2.0 is there, 5kB"},
		{&wherryv1.GetUpdateResponse{Version: "12.0.0", Phase: "idle", Last: &wherryv1.UpdateRecord{From: "12.0.0", To: "12.1.0", State: "rolled-back", EndedAt: at(-5), ByHand: true}},
			"somebody went back from 12.1.0 5 minutes ago: it is left alone until there is a newer release, or: wherry machine update apply --retry"},
		{&wherryv1.GetUpdateResponse{Version: "12.0.0", Phase: "idle", Last: &wherryv1.UpdateRecord{From: "12.1.0", To: "12.0.0", Source: "rollback", State: "rolled-back", EndedAt: at(-5), ByHand: true},
			Offer: &wherryv1.UpdateOffer{Version: "12.2.0", Bytes: 5000}}, "somebody went back from 12.1.0 5 minutes ago; 12.2.0 is there, 5kB"},
		{&wherryv1.GetUpdateResponse{Version: "12.1.0", Phase: "idle", Policy: whole.Policy, Why: "12.1.0 runs already", Last: &wherryv1.UpdateRecord{From: "12.1.0", To: "12.0.0", Source: "rollback", State: "failed", EndedAt: at(-5), ByHand: true}},
			"none: 12.1.0 runs already"},
	} {
		if got := r.updateLine(c.state); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestWaitText(t *testing.T) {
	limit := &wherryv1.UpdateTrial{StartedAt: at(0), EndsAt: at(5), Checks: []*wherryv1.UpdateCheck{{Name: "network", State: "passed"}, {Name: "shop", State: "waiting"}, {Name: "db", State: "waiting"}}}
	well := &wherryv1.UpdateTrial{StartedAt: at(0), EndsAt: at(5), Checks: limit.Checks[:1], Held: durationpb.New(4100 * time.Millisecond), Needed: durationpb.New(10 * time.Second)}
	for _, c := range []struct {
		trial *wherryv1.UpdateTrial
		live  bool
		want  string
	}{
		{nil, false, ""}, {limit, false, ", waiting for shop, db (5m at most)"}, {limit, true, ", waiting for shop, db (5m at most)"},
		{well, false, ": all is well, and must stay so for 10s"}, {well, true, ": all is well, for 4 s of 10s"},
		{&wherryv1.UpdateTrial{Checks: limit.Checks}, false, ", waiting for shop, db"}, {&wherryv1.UpdateTrial{Checks: limit.Checks[:1]}, false, ""},
	} {
		if got := waitText(c.trial, c.live); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	if got, want := trialText(well), "network passed; stays when all has been well for 10s (for 4 s by now); goes back at "+localTime(at(5)); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestRootText(t *testing.T) {
	for want, u := range map[string]*wherryv1.GetUpdateResponse{
		"": {}, "root 1, 1 of the keys a": {RootRole: "root 1, 1 of the keys a", RootVersion: 1, ImageRootVersion: 1},
		"version 1, 1 of the keys a":            {RootRole: "version 1, 1 of the keys a"},
		"root 2 (image has 1), 1 of the keys b": {RootRole: "root 2, 1 of the keys b", RootVersion: 2, ImageRootVersion: 1},
	} {
		if got := rootText(u); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestAvoidText(t *testing.T) {
	for want, u := range map[string]*wherryv1.GetUpdateResponse{
		"": {}, "12.1.0, 12.2.0": {Avoided: []string{"12.1.0", "12.2.0"}},
		"12.1.0 (did not work, " + localTime(at(-5)) + "), 12.2.0 (left by hand, " + localTime(at(0)) + ")": {Avoided: []string{"12.1.0", "12.2.0"},
			LeftAlone: []*wherryv1.AvoidedRelease{{Version: "12.1.0", At: at(-5)}, {Version: "12.2.0", ByHand: true, At: at(0)}}},
	} {
		if got := avoidText(u); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
