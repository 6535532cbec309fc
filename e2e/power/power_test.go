// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package power promises that neither a hostile repository nor a power cut harms a machine.
//
// One machine boots its disk under UEFI and goes from release to release. At first its
// repository does what it can against it. Then what it asks of its disk and of the firmware's
// memory is written down during an update, a rollback, the rebuilding of a file from a delta, and its first boot
// (package torndisk): scene_test.go. Nothing else of a machine outlives a power cut, so each
// place in that journal is one: what was not flushed there is lost in one of the ways in
// which disks lose it, and a machine boots what is left (cut_test.go). After each cut it runs the old
// or the new release, what a container was told to be safe is there, and the update ends well
// when it is asked for again; others read the boot partition, and find whole files and nothing left over.
// Some of these machines lose their power once more, while they recover.
//
// WHERRY_POWER_CUTS is how many cuts (`make test-power`: 120; a sample is of the update alone), WHERRY_POWER_SEED repeats a run, and
// WHERRY_POWER_FIRST begins at a cut of it: each depends on the seed and its own number
// alone, and on when the machine wrote what, which is a little different each time.
package power

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	seed := setting(t, "WHERRY_POWER_SEED", uint64(time.Now().Unix()/86400))
	first, cuts := setting(t, "WHERRY_POWER_FIRST", 0), setting(t, "WHERRY_POWER_CUTS", sample)
	t.Run("cuts", func(t *testing.T) {
		g := g.in(t)
		scenes := g.scenes(cuts > sample)
		if cuts > sample {
			for _, s := range scenes {
				g.readAll(seed, s)
			}
		}
		for i := first; i < cuts; i++ {
			g.cutOne(newCut(seed, i, scenes, cuts > sample), cuts)
		}
	})
}

// cutOne makes a cut a subtest, which says how to have it again.
func (g *rig) cutOne(c cut, cuts uint64) {
	again := fmt.Sprintf("WHERRY_POWER_SEED=%d WHERRY_POWER_FIRST=%d WHERRY_POWER_CUTS=%d", c.seed, c.number, cuts)
	name := fmt.Sprintf("%d of %d", c.number, cuts)
	if !g.t.Run(name, func(t *testing.T) { g.in(t).cut(c) }) {
		g.t.Logf("the seed that failed: %s", again)
	}
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
	t     *testing.T
	m     *vmtest.Machine
	p     *fixture.Publisher
	disk  *torndisk.Disk
	flash *torndisk.Disk // what the firmware remembers
	web   *server
	base  fixture.Release // that variants are made of
	// published are the sums of the OS files, by version.
	published map[string]string
	// The first boot.
	birth *torndisk.Journal
	born  []torndisk.Event
	*progress
}

// progress is what goes on from subtest to subtest.
type progress struct {
	running string // the release that is to run
	minor   int
	tally   int   // what the container has counted
	boot    int64 // bytes of the boot partition that no OS file takes
}

// in is the rig in a subtest, which then is the one that fails.
func (g *rig) in(t *testing.T) *rig {
	c := *g
	c.t, c.User = t, g.User.In(t)
	return &c
}

func newRig(t *testing.T) *rig {
	g := &rig{User: vmtest.NewUser(t), t: t, p: fixture.NewPublisher(t), published: map[string]string{}, progress: &progress{running: firstRelease}}
	g.web = serve(t, g.p.Addr)
	g.build()
	g.m = vmtest.New(t, vmtest.Options{
		DiskImage: g.base.File("wherry.raw"), DiskBytes: disk.Bytes + 512<<20,
		Config: g.Config("updates:", "  url: "+g.web.guest, "  channel: alpha", "  mode: manual", ""),
	})
	g.disk, g.flash = g.serve("state.img", torndisk.Serve), g.serve("firmware.fd", torndisk.ServeFlash)
	g.birth = g.record()
	g.start()
	var err error
	if g.born, err = g.birth.End(); err != nil {
		g.t.Fatal(err)
	}
	g.Run("load", "-i", fixture.Archive(t, "localhost/tools:1", fixture.Toybox(t)))
	g.Run("run", "-d", "--name", "work", "--restart", "always", "-v", "data:/data", "localhost/tools:1", "sleep", "inf")
	g.work()
	g.boot = g.outsideOfSlots(g.status())
	return g
}

// serve serves one of the machine's files, and ends the machine before that.
func (g *rig) serve(name string, how func(string) (*torndisk.Disk, error)) *torndisk.Disk {
	g.t.Helper()
	d, err := how(filepath.Join(g.m.VM().Dir(), name))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		g.m.Kill()
		if err := d.Close(); err != nil {
			g.t.Error(err)
		}
	})
	return d
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
	g.sum(g.base)
}

// sum remembers what a release's OS file is.
func (g *rig) sum(r fixture.Release) {
	g.t.Helper()
	data, err := os.ReadFile(r.File("wherry.efi"))
	if err != nil {
		g.t.Fatal(err)
	}
	g.published[r.Version] = fmt.Sprintf("%x", sha256.Sum256(data))
}

// release publishes the next one. Without deltas there is more to cut, and to send wrongly.
func (g *rig) release(deltas string) string {
	g.t.Helper()
	g.minor++
	r := g.p.Variant(g.base, fmt.Sprintf("1.%d.0", g.minor), fixture.Change{})
	g.sum(r)
	g.p.Wherry("publish", r.Dir, "--deltas", deltas)
	if err := os.RemoveAll(r.Dir); err != nil { // the repository has it
		g.t.Fatal(err)
	}
	return r.Version
}

func (g *rig) start() {
	g.t.Helper()
	g.m.Configure(func(o *vmtest.Options) { o.Args = append(g.disk.Arguments("state"), g.flash.Arguments("variables")...) })
	if err := g.m.TryStart(); err != nil {
		g.t.Fatalf("start the machine: %v", err)
	}
	g.Knows(g.m)
}

// work has the container count on: nothing that it was told to be safe may be lost.
func (g *rig) work() {
	g.t.Helper()
	var said string
	g.await("the container works", func() (err error) { said, err = g.count(); return err })
	if g.tally++; said != strconv.Itoa(g.tally) {
		g.t.Fatalf("the container's volume has %s, and it was told that %d is safe", said, g.tally-1)
	}
}

// count is one number more.
func (g *rig) count() (string, error) {
	r := g.Try("exec", "work", "/toybox", "tally", "/data/tally")
	if r.Code != 0 {
		return "", fmt.Errorf("exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	return strings.TrimSpace(r.Stdout), nil
}

// offered is nil when the machine knows of the release: its clock may be a moment behind.
func (g *rig) offered(version string) error {
	if r := g.Try("machine", "update", "check"); !strings.Contains(r.Stdout, version) {
		return fmt.Errorf("%+v", r)
	}
	return nil
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

// busy tells whether the machine is about to do something by itself. Right after its start it
// may not have said so yet; what it runs then is still on trial.
func (u update) busy() bool {
	trial := slices.ContainsFunc(u.Slots, func(s slot) bool { return s.Running && s.Trial })
	return trial || u.Phase != "idle" && u.Phase != "staged"
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
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Second) { // each question costs the machine time
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
	u := g.settled() // it looks into the repository by itself, too
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

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
