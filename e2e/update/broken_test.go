// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"wherry.example/wherry/internal/format/pe"
	"wherry.example/wherry/internal/host/bootimage"
	"wherry.example/wherry/internal/vmtest/fixture"
)

// TestNeverUp and TestNotWell are the lives of machines that are given nothing but
// releases that do not work. Each ends in the old one, the data of the machine's work is
// as it was, the reason is shown wherever people look, and the release is left alone.
//
//	what is wrong                     seen here as                        and elsewhere
//	truncated file                    "a file that was cut off"           TestUpdate (refused), e2e/slots (its three tries)
//	zero bytes                        "a file of no bytes"                TestUpdate (refused)
//	bad signature                     "a file that somebody else signed"  TestUpdate (refused), e2e/images
//	kernel panic at boot              "a kernel that panics"
//	init that exits                   "an init that exits"
//	init that hangs (watchdog)        "an init that hangs"                e2e/slots (softdog, i6300esb)
//	wherryd that crashes              "a wherryd that crashes"
//	API that never answers            "an API that never answers"         e2e/slots TestNobodyKeeps
//	network driver missing            "a network driver that is missing"
//	container not healthy any more    "a container that is sick"
//	a check of the configuration      "a check that fails"
//	state full, ESP full, clock wrong by ten years, two at once,
//	update during shutdown            TestUpdate "disks that are full, …" e2e/slots (ESP)
//	hostile repository, power cuts                                        e2e/power
func TestNeverUp(t *testing.T) { ends(t, neverUp) }

// TestNotWell: the other half. Both halves are as long as TestUpdate.
func TestNotWell(t *testing.T) { ends(t, notWell) }

func ends(t *testing.T, releases []broken) {
	t.Parallel()
	g := newRig(t, plain, "60s")
	for _, b := range releases {
		g.test(b.name, b.check)
	}
	g.test("the publisher learns of it", reported)
}

// broken is a release that must end in the old one.
type broken struct {
	name   string
	change fixture.Change
	// damage is done to the staged file while the machine is off.
	damage func(g *rig, r fixture.Release, file string)
	// oneTry takes two of the loader's three away while the machine is off: it takes less long.
	oneTry bool
	// bundle takes the release from a file instead of the repository.
	bundle bool
	// lost is a file whose contents the disk forgot: no fault of the release, which may be taken once more, and only once.
	lost bool
	// console and reason are what the machine shows of it.
	console, reason string
}

// soon has PID 1 give wherryd up after seconds, not minutes.
const soon = "wherry.trial=20"

// Of these wherryd did not come up, so nobody saw more than that.
var neverUp = []broken{
	{name: "a kernel that panics", change: fixture.Change{Cmdline: "rdinit=/missing panic=1", Init: "exit"},
		console: `(?s)(Kernel panic.*){3}`, reason: `started 3 times.*wherryd never came up`},
	{name: "an init that exits", change: fixture.Change{Cmdline: "panic=1", Init: "exit"}, oneTry: true,
		console: `Attempted to kill init`, reason: `started once.*wherryd never came up`},
	{name: "an init that hangs", change: fixture.Change{Cmdline: "wherry.chaos=hang"}, oneTry: true,
		console: `chaos hangs wherry-init`, reason: `started once.*wherryd never came up`},
	{name: "a wherryd that crashes", change: fixture.Change{Cmdline: soon, Replace: map[string]string{"bin/wherryd": "crash"}}, oneTry: true,
		console: `(?s)(broken: crash.*){2}nobody kept this release`, reason: `started once.*wherryd never came up`},
	{name: "an API that never answers", change: fixture.Change{Cmdline: soon, Replace: map[string]string{"bin/wherryd": "mute"}}, oneTry: true,
		console: `(?s)broken: mute.*nobody kept this release`, reason: `started once.*wherryd never came up`},
}

// These the firmware refuses, or the trial does.
var notWell = []broken{
	{name: "a network driver that is missing", change: fixture.Change{Remove: []string{"lib/modules/virtio_net.ko"}},
		reason: `network: eth0 is gone`},
	{name: "a container that is sick", change: fixture.Change{Cmdline: "wherry.test=sick"}, bundle: true,
		reason: `container cache: it was healthy.*the kernel makes me sick`},
	{name: "a check that fails", change: fixture.Change{Cmdline: "wherry.test=mute"},
		reason: `check words: it ended with 1: the kernel says nothing`},
	{name: "a file that was cut off", change: hollow, damage: truncate, oneTry: true, console: refused, reason: `damaged`},
	{name: "a file of no bytes", change: hollow, damage: empty, lost: true, reason: `has lost its contents`},
	{name: "a file that somebody else signed", change: hollow, damage: resign, oneTry: true, console: refused, reason: `damaged`},
}

// hollow is a release that is damaged before anything of it could start.
var hollow = fixture.Change{Hollow: true}

// refused is what the firmware says.
const refused = `(?i)access denied|security violation|failed to start`

// check brings a broken release, and wants the old one back.
func (b broken) check(g *rig) {
	r := g.p.Variant(g.next, g.nextVersion(), b.change)
	g.p.Publish(r)
	b.brought(g, r)
	if b.lost {
		b.lost, b.reason = false, b.reason+`, for the second time`
		b.brought(g, r)
	}
}

// brought is once of it.
func (b broken) brought(g *rig, r fixture.Release) {
	g.t.Helper()
	args := []string{"machine", "update", "apply", "--to", r.Version} // also where its clock is a moment behind
	if b.bundle {
		args = append(args, g.p.Bundle(r.Version))
	}
	from := len(g.m.Console())
	if b.damage != nil || b.oneTry {
		g.Run(append(args, "--stage-only")...)
		g.stop()
		b.edit(g, r)
		g.start()
		from = 0
	} else {
		r := g.Try(args...)
		if r.Code != 3 {
			g.t.Fatalf("apply ends with %+v", r)
		}
		g.match("apply", r.Stderr, b.reason)
	}
	g.match("the console", g.m.Console()[from:], b.console)
	b.shown(g, r.Version)
	g.works()
}

// edit changes the boot partition of the machine, which is off.
func (b broken) edit(g *rig, r fixture.Release) {
	g.t.Helper()
	file := g.osFile(r.Version)
	if !strings.HasSuffix(file, "+3.efi") {
		g.t.Fatalf("the staged file is %s", file)
	}
	if b.damage != nil {
		b.damage(g, r, file)
	}
	if b.oneTry {
		g.mtools("mren", file, strings.Replace(file, "+3.efi", "+1.efi", 1))
	}
}

// shown wants the end of the attempt wherever people look.
func (b broken) shown(g *rig, version string) {
	g.t.Helper()
	state := "rolled-back"
	if b.lost {
		state = "failed"
	}
	var u update
	g.await("it is decided", func() error {
		if u = g.status(); u.Phase != "idle" || u.Last.To != version || u.Last.State != state {
			return fmt.Errorf("%s %s, last %+v", u.Phase, u.Target, u.Last)
		}
		return nil
	})
	if u.running() != oldRelease {
		g.t.Errorf("after %s: %+v", version, u)
	}
	for _, s := range u.Slots {
		if s.Version == version && !s.Bad {
			g.t.Errorf("the loader may start it again: %+v", s)
		}
	}
	if len(u.Slots) > 3 {
		g.t.Errorf("%d OS files are kept: %s", len(u.Slots), u.slots())
	}
	g.t.Logf("reason: %s", u.Last.Reason)
	g.match("update status -o json", u.Last.Reason, b.reason)
	g.match("update status", g.ask("machine", "update", "status"), version+`.*`+b.reason)
	g.match("update history", g.ask("machine", "update", "history", "-n", "1"), version+`.*`+b.reason)
	if b.lost {
		g.match("the console", g.m.Console(), version+`: its file is not on the boot partition`) // which shows the beginning of long lines
		g.match("status", g.ask("status"), version+` did not work .*`+b.reason)
		return
	}
	g.match("the console", g.m.Console(), `rolled back from `+version)
	g.match("status", g.ask("status"), version+` did not work here: .*`+b.reason)
	b.leftAlone(g, version)
}

// leftAlone: nobody gets it but who says that he wants it all the same.
func (b broken) leftAlone(g *rig, version string) {
	g.t.Helper()
	if out := g.ask("machine", "update", "check"); strings.Contains(out, version+" is there") {
		g.t.Errorf("the release that did not work is offered again: %s", out)
	}
	r := g.Try("machine", "update", "apply", "--to", version)
	if r.Code != 1 {
		g.t.Fatalf("the release that did not work is taken again: %+v", r)
	}
	g.match("apply", r.Stderr, version+` did not work here.*`+b.reason)
}

func truncate(g *rig, r fixture.Release, file string) {
	whole := g.read(r.File("wherry.efi"))
	g.put(whole[:len(whole)/2], file)
}

func empty(g *rig, _ fixture.Release, file string) { g.put(nil, file) }

// resign puts the same file there, signed by somebody whom the firmware does not know.
func resign(g *rig, r fixture.Release, file string) {
	parts, err := pe.Parse(g.read(r.File("wherry.efi")))
	if err != nil {
		g.t.Fatal(err)
	}
	plain, err := parts.Append() // takes the signature off
	if err != nil {
		g.t.Fatal(err)
	}
	signed, err := bootimage.Sign(plain, g.p.Stranger())
	if err != nil {
		g.t.Fatal(err)
	}
	g.put(signed, file)
}

// reported: who publishes learns which release did not work here, and why.
func reported(g *rig) {
	version := fmt.Sprintf("1.%d.0", *g.minor)
	want := regexp.MustCompile(`"failures":\s*\[\s*\{\s*"version":\s*"` + regexp.QuoteMeta(version) + `",\s*"reason":`)
	g.await("the status page tells of "+version, func() error {
		resp, err := http.Get("http://" + g.p.Addr + "/status.json")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if err == nil && !want.Match(text) {
			err = fmt.Errorf("%s", text)
		}
		return err
	})
}
