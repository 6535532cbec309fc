// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package update promises what updates do, black box, on machines that boot
// their disk under UEFI with Secure Boot: a good release stays and can be left by
// hand, and every bad one ends in the old release, with the work going on, its
// data untouched, and the reason shown to who asks.
package update

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/internal/vmtest"
	"wherry.example/wherry/internal/vmtest/fixture"
)

const (
	oldRelease = "1.0.0"
	newRelease = "1.1.0"
	// patience is for a reboot through releases that fail, on a busy computer.
	patience = 10 * time.Minute
)

// TestUpdate is one machine's life. Booting it is what takes the time, so that
// each boot serves as many promises as it can.
func TestUpdate(t *testing.T) {
	t.Parallel()
	g := newRig(t, redis, "4m")
	old := g.next
	g.next = g.p.Build(newRelease, "efi")
	publishDeltas(g, old)
	g.databases()
	g.test("deltas that are of no use", fallsBack)
	g.test("a release that works stays, by a delta", keeps)
	g.test("going back by hand", goesBack)
	g.test("refused before anything is written", refuses)
	g.test("disks that are full, a wrong clock, two at once, a shutdown", trouble)
}

// newRig boots the old release and gives the machine work. A trial may last until the limit.
func newRig(t *testing.T, does work, limit string) *rig {
	minor := 1
	g := &rig{User: vmtest.NewUser(t), t: t, does: does, p: fixture.NewPublisher(t), r: fixture.NewRegistry(t), minor: &minor, used: new(time.Duration)}
	g.road, g.clock = newRoad(t, g.p.Addr), fixture.NewTimeServer(t, 0)
	old := g.p.Build(oldRelease, "efi", "raw")
	g.next = old
	begin := time.Now()
	g.m = vmtest.Start(t, vmtest.Options{
		DiskImage: old.File("wherry.raw"), SecureBoot: true, DiskBytes: 5 << 28, MemoryMiB: 1024, Config: g.document(limit), Timeout: patience,
	})
	g.Knows(g.m)
	does.begin(g)
	g.works()
	t.Logf("first boot and its work: %.0f s, CPU time of the machine %.0f s", time.Since(begin).Seconds(), g.cpu().Seconds())
	u := g.status()
	if u.Unavailable != "" || u.slots() != oldRelease+"*" {
		t.Fatalf("updates at first: %+v", u)
	}
	if !u.Trust.SecureBoot || !strings.Contains(u.Trust.SignedBy, "owner") {
		t.Errorf("the boot is not told to be verified: %+v", u.Trust)
	}
	return g
}

func keeps(g *rig) {
	delta := g.bytes(g.delta(newRelease))
	g.match("update check", g.Run("machine", "update", "check"), newRelease+` is there, .* as a delta`)
	r := g.Try("machine", "update", "apply") // waits, and ends with 0 when it stays
	if r.Code != 0 {
		g.t.Fatalf("apply: %+v", r)
	}
	g.t.Log("\n" + r.Stderr)
	g.match("apply", r.Stderr, `trying `+newRelease+`(, waiting for .* \(4m at most\)|: all is well, and must stay so for \d+s)`)
	g.fetched(newRelease, delta, true, `^$`)
	u := g.status()
	if u.slots() != newRelease+"* "+oldRelease || u.Version != newRelease || u.Last.State != "committed" || u.Last.To != newRelease || u.Last.Downtime == "" {
		g.t.Errorf("after the update: %+v", u)
	}
	if s := u.Slots[0]; s.Trial || strings.Contains(s.File, "+") {
		g.t.Errorf("it stayed, and its starts are still counted: %+v", s)
	}
	g.t.Logf("downtime of the update: %s", u.Last.Downtime)
	g.works()
	g.rows()
	if err := g.contains("once", "ps"); err == nil {
		g.t.Error("a container came back that has no policy to")
	}
}

func goesBack(g *rig) {
	r := g.Try("machine", "rollback")
	if r.Code != 0 {
		g.t.Fatalf("rollback: %+v", r)
	}
	g.t.Log("\n" + r.Stderr)
	g.match("rollback", r.Stderr, `runs `+oldRelease+` again, down for [0-9.]+ s`)
	for _, name := range []string{"cache", "db"} { // nobody has to wait any more
		if err := g.contains("Up ", "ps", "--filter", "name="+name); err != nil {
			g.t.Errorf("after going back: %v", err)
		}
	}
	u := g.status()
	if u.Version != oldRelease || !strings.HasPrefix(strings.ReplaceAll(u.slots(), newRelease+"x", newRelease), newRelease+" "+oldRelease+"*") {
		g.t.Errorf("after going back: %+v", u)
	}
	g.works()
	g.rows()
	if u.Last.Downtime == "" {
		g.t.Errorf("%+v\n%s", u.Last, g.Run("machine", "log"))
	}
	g.t.Logf("downtime of going back: %s", u.Last.Downtime)
	history := g.Run("machine", "update", "history")
	g.match("the history", history, `by hand`)
	g.t.Log("\n" + history)
	// From here on its rows wait in their volume: its start would be most of each boot.
	g.Run("rm", "-f", "db")
	// It is left alone until there is a newer one.
	if out := g.Run("machine", "update", "check"); strings.Contains(out, newRelease+" is there") {
		g.t.Errorf("the release that was left is offered again: %s", out)
	} else {
		g.match("the check", out, `somebody went back from `+newRelease+` on .*apply --retry`)
	}
}

// refuses: what the signed hash or the firmware's keys already tell costs no reboot.
func refuses(g *rig) {
	apply := func(version, pattern string) {
		g.t.Helper()
		r := g.Try("machine", "update", "apply", "--to", version)
		if r.Code != 1 {
			g.t.Fatalf("%s was not refused: %+v", version, r)
		}
		g.match("the refusal of "+version, r.Stderr, pattern)
	}
	cut := g.p.Variant(g.next, g.nextVersion(), fixture.Change{Cmdline: "cut"})
	g.p.Publish(cut)
	file := g.published(cut)
	whole := g.read(file)
	g.write(file, whole[:len(whole)/2])
	apply(cut.Version, `cut off|interrupted`)
	g.write(file, nil)
	apply(cut.Version, `cut off|interrupted`)
	changed := bytes.Clone(whole)
	changed[len(changed)/2] ^= 1
	g.write(file, changed)
	apply(cut.Version, `not the file that was signed`)

	strange := g.p.Variant(g.next, g.nextVersion(), fixture.Change{Signer: g.p.Stranger()})
	g.p.Publish(strange)
	apply(strange.Version, `firmware would not start`)
	if u := g.status(); u.Version != oldRelease || u.Phase != "idle" || strings.Contains(u.slots(), strange.Version) || strings.Contains(u.slots(), cut.Version) {
		g.t.Errorf("after what was refused: %+v", u)
	}
}

// published finds a release's OS file in the repository.
func (g *rig) published(r fixture.Release) string {
	g.t.Helper()
	found, err := filepath.Glob(filepath.Join(g.p.Repository, "targets", "releases", r.Version, "*", "*.wherry.efi"))
	if err != nil || len(found) != 1 {
		g.t.Fatalf("the repository's OS files of %s: %v, %v", r.Version, found, err)
	}
	return found[0]
}

// write changes a file of the repository, as a server with a fault would.
func (g *rig) write(file string, data []byte) {
	g.t.Helper()
	if err := os.Remove(file); err != nil { // it may be a hard link
		g.t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		g.t.Fatal(err)
	}
}
