// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package power promises that neither a hostile repository nor a power cut harms a machine.
//
// One machine boots its disk under UEFI and goes from release to release. At first its
// repository does what it can against it. Then each update is cut once: the disk stops at a
// random write or moment of one of the phases, QEMU is ended, and what was not
// flushed is lost in one of the ways in which disks lose it (package torndisk).
// After each cut the machine boots the old or the new release, what a container wrote is
// there, the update ends well when it is asked for again, and nothing is left over
// on the boot partition.
//
// WHERRY_POWER_CUTS is how many cuts (`make test-power`: 120), WHERRY_POWER_SEED repeats a run, and
// WHERRY_POWER_FIRST begins at a cut of it: each depends on the seed and its own number alone.
package power

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/internal/host/disk"
	"wherry.example/wherry/internal/host/image"
	"wherry.example/wherry/internal/vmtest"
	"wherry.example/wherry/internal/vmtest/fixture"
	"wherry.example/wherry/internal/vmtest/torndisk"
)

const (
	firstRelease = "1.0.0"
	// sample is how many cuts `make test` makes.
	sample = 4
	// patience is for a reboot or two on a busy computer.
	patience = 12 * time.Minute
)

func TestPower(t *testing.T) {
	g := newRig(t)
	if !t.Run("a hostile repository", func(t *testing.T) { g.in(t).hostile() }) {
		return
	}
	if g.measured == nil { // only cuts were asked for
		g.whole(g.release())
	}
	seed, first, cuts := uint64(time.Now().Unix()/86400), setting(t, "WHERRY_POWER_FIRST", 0), setting(t, "WHERRY_POWER_CUTS", sample)
	seed = setting(t, "WHERRY_POWER_SEED", seed)
	for i := first; i < cuts; i++ {
		c := newCut(seed, i, g.measured)
		name := fmt.Sprintf("cut %d of %d", i, cuts)
		if !t.Run(name, func(t *testing.T) { g.in(t).cut(c) }) {
			t.Fatalf("repeat it with WHERRY_POWER_SEED=%d WHERRY_POWER_FIRST=%d WHERRY_POWER_CUTS=%d", seed, i, i+1)
		}
	}
	g.off()
}

// setting is a number of the environment.
func setting(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// rig is the machine, its user and its repository.
type rig struct {
	*vmtest.User
	t    *testing.T
	m    *vmtest.Machine
	p    *fixture.Publisher
	disk *torndisk.Disk
	web  *server
	base fixture.Release // that variants are made of
	*progress
}

// progress is what goes on from subtest to subtest.
type progress struct {
	running  string // the release that is to run
	minor    int
	tally    int   // what the container has counted
	boot     int64 // bytes of the boot partition that no OS file takes
	measured map[phase]mark
}

// in is the rig in a subtest, which then is the one that fails.
func (g *rig) in(t *testing.T) *rig {
	c := *g
	c.t, c.User = t, g.User.In(t)
	return &c
}

func newRig(t *testing.T) *rig {
	g := &rig{User: vmtest.NewUser(t), t: t, p: fixture.NewPublisher(t), progress: &progress{running: firstRelease}}
	g.web = serve(t, g.p.Addr)
	g.build()
	g.m = vmtest.New(t, vmtest.Options{
		DiskImage: g.base.File("wherry.raw"), DiskBytes: disk.Bytes + 512<<20,
		Config: g.Config("updates:", "  url: "+g.web.guest, "  channel: alpha", "  mode: manual", ""),
	})
	var err error
	if g.disk, err = torndisk.Serve(filepath.Join(g.m.VM().Dir(), "state.img")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.m.Kill() // before its disk goes
		if err := g.disk.Close(); err != nil {
			t.Error(err)
		}
	})
	g.m.Configure(func(o *vmtest.Options) { o.Args = g.disk.Arguments("state") })
	g.start()
	g.Run("load", "-i", fixture.Archive(t, "localhost/tools:1", fixture.Toybox(t)))
	g.Run("run", "-d", "--name", "work", "--restart", "always", "-v", "data:/data", "localhost/tools:1", "sleep", "inf")
	g.work()
	g.boot = g.outsideOfSlots(g.status())
	return g
}

// build makes the first release: without keys for Secure Boot, whose checks cost time at each boot.
func (g *rig) build() {
	g.t.Helper()
	g.base = fixture.Release{Version: firstRelease, Dir: filepath.Join(g.t.TempDir(), firstRelease)}
	_, err := image.Build(g.t.Context(), image.Options{
		Output: g.base.Dir, Version: firstRelease, Formats: []string{"efi", "raw"}, ReleaseRoot: g.p.Root(),
	})
	if err != nil {
		g.t.Fatal(err)
	}
	g.p.Publish(g.base)
}

// release publishes the next one.
func (g *rig) release() string {
	g.t.Helper()
	g.minor++
	r := g.p.Variant(g.base, fmt.Sprintf("1.%d.0", g.minor), fixture.Change{})
	// Whole files: there is more to cut, and to send wrongly.
	g.p.Wherry("publish", r.Dir, "--deltas", "none")
	if err := os.RemoveAll(r.Dir); err != nil { // the repository has it
		g.t.Fatal(err)
	}
	return r.Version
}

func (g *rig) start() {
	g.t.Helper()
	if err := g.m.TryStart(); err != nil {
		g.t.Fatalf("start the machine: %v", err)
	}
	g.Knows(g.m)
}

// off ends the machine in order, and has others look at its disk.
func (g *rig) off() {
	g.t.Helper()
	g.m.Stop()
	part := filepath.Join(g.t.TempDir(), "esp")
	run(g.t, "dd", "if="+g.file(), "of="+part, "bs=1M", "skip=1", fmt.Sprintf("count=%d", disk.Bytes>>20-2), "conv=sparse", "status=none")
	run(g.t, "fsck.fat", "-n", part)
}

// file is what the disk's contents are in.
func (g *rig) file() string { return filepath.Join(g.m.VM().Dir(), "state.img") }

// work has the container count on: nothing that it was told to be safe may be lost.
func (g *rig) work() {
	g.t.Helper()
	var said string
	g.await("the container works", func() error {
		r := g.Try("exec", "work", "/toybox", "tally", "/data/tally")
		if said = strings.TrimSpace(r.Stdout); r.Code != 0 {
			return fmt.Errorf("exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
		}
		return nil
	})
	if g.tally++; said != strconv.Itoa(g.tally) {
		g.t.Fatalf("the container's volume has %s, and it was told that %d is safe", said, g.tally-1)
	}
}

// update is what `update status -o json` tells.
type update struct {
	Phase, Target, Unavailable string
	Last                       struct{ To, State, Reason string }
	Slots                      []slot
	Avoided                    []string
}

type slot struct {
	Version, File       string
	Running, Trial, Bad bool
	Bytes               json.Number
}

func (u update) running() string {
	for _, s := range u.Slots {
		if s.Running {
			return s.Version
		}
	}
	return ""
}

// status asks until the machine answers: it may be about to restart.
func (g *rig) status() (u update) {
	g.t.Helper()
	g.await("update status", func() error {
		r := g.Try("machine", "update", "status", "-o", "json")
		if r.Code != 0 {
			return fmt.Errorf("%s", r.Stderr)
		}
		u = update{}
		return json.Unmarshal([]byte(r.Stdout), &u)
	})
	if u.Unavailable != "" {
		g.t.Fatalf("the machine cannot be updated: %s", u.Unavailable)
	}
	return u
}

func (g *rig) await(what string, ok func() error) {
	g.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(500 * time.Millisecond) {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("not within %v: %s: %v", patience, what, err)
		}
	}
}

// clean wants an update that ended well, and no traces of how it came to that.
func (g *rig) clean(version string) {
	g.t.Helper()
	u := g.status()
	if u.Phase != "idle" || u.running() != version || u.Last.To != version || u.Last.State != "committed" || len(u.Avoided) > 0 {
		g.t.Errorf("the update to %s did not end well: %+v", version, u)
	}
	if len(u.Slots) > 3 {
		g.t.Errorf("%d OS files: %+v", len(u.Slots), u.Slots)
	}
	for _, s := range u.Slots {
		if s.Trial || s.Bad || s.File != "wherry_"+s.Version+".efi" {
			g.t.Errorf("left over: %+v", s)
		}
	}
	if lost := g.outsideOfSlots(u) - g.boot; lost > 64<<10 {
		g.t.Errorf("%d KB of the boot partition were lost", lost>>10)
	}
	g.running = version
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}
