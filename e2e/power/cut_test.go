// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package power

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"wherry.example/wherry/internal/vmtest/torndisk"
)

// cut is one power cut.
type cut struct {
	seed, number uint64
	random       *rand.Rand
	scene        *scene
	part         part
	events       int // that are done when the power goes; the last may be under way
	at           string
	// twice cuts the power once more, while the machine recovers.
	twice bool
	// again is how far what was cut is brought when it has to be asked for again.
	again string
}

const (
	not    = "no"
	staged = "staged"
	whole  = "whole"
)

// turns are the parts in which cuts come, in turn, so that a few in a row see several.
var turns = []struct{ scene, part string }{
	{"update", "staging"}, {"update", "blessing"}, {"update", "boot"}, {"delta", "rebuilding"}, {"rollback", "leaving"}, {"update", "shutdown"},
	{"update", "staging"}, {"update", "trial"}, {"rollback", "boot"}, {"first boot", "boot"}, {"update", "download"}, {"delta", "staging"},
	{"rollback", "back"},
}

// newCut plans one. A thorough one may go on for minutes.
func newCut(seed, number uint64, scenes []*scene, thorough bool) cut {
	c := cut{seed: seed, number: number, random: rand.New(rand.NewPCG(seed, number))}
	var parts []cut
	for _, turn := range turns {
		for _, s := range scenes {
			if p := s.part(turn.part); s.name == turn.scene && p.to > p.from {
				parts = append(parts, cut{scene: s, part: p})
			}
		}
	}
	turn := parts[(seed+number)%uint64(len(parts))]
	c.scene, c.part = turn.scene, turn.part
	c.aim()
	c.again = [...]string{not, not, staged}[c.random.IntN(3)]
	if thorough {
		c.twice = c.random.IntN(6) == 0 && c.scene.name != "first boot"
		c.again = [...]string{not, not, not, staged, staged, whole}[c.random.IntN(6)]
	}
	return c
}

// aim chooses the event: that of a random moment, or one of those that something was written by.
func (c *cut) aim() {
	all := c.scene.events
	classes := map[string][]int{}
	var names []string
	for n := c.part.from; n < c.part.to; n++ {
		name := class(all[n])
		if classes[name] == nil {
			names = append(names, name)
		}
		classes[name] = append(classes[name], n)
	}
	if c.random.IntN(4) == 0 {
		from, to := all[c.part.from].At, all[c.part.to-1].At
		moment := from + time.Duration(c.random.Float64()*float64(to-from))
		c.events = sort.Search(len(all), func(n int) bool { return all[n].At > moment })
		c.at = fmt.Sprintf("%.1f s", (moment - from).Seconds())
		return
	}
	name := names[c.random.IntN(len(names))]
	n := c.random.IntN(len(classes[name]))
	c.events = classes[name][n] + 1
	if name == flushes && c.random.IntN(2) == 0 {
		c.events-- // right before it
	}
	c.at = fmt.Sprintf("%s %d of %d", name, n+1, len(classes[name]))
}

const flushes = "flush"

// class is what an event is about.
func class(e torndisk.Event) string {
	switch {
	case e.Disk == onFlash:
		return "write to the firmware's memory"
	case e.Flush:
		return flushes
	case isBoot(e):
		return "write to the boot partition"
	}
	return "write to the state"
}

func (c cut) String() string {
	return fmt.Sprintf("seed %d, cut %d: %s, %s, %s (event %d)", c.seed, c.number, c.scene.name, c.part.name, c.at, c.events)
}

// cut boots what a power cut leaves, and wants all to end well.
func (g *rig) cut(c cut) {
	began := time.Now()
	progress := c.scene.begin
	g.progress = &progress
	torn := g.lose(c)
	g.t.Logf("%s: %d sectors were not flushed, %s: %d lost something", c, torn.Unsafe, torn.How, torn.Older)
	g.start()
	u := g.status()
	g.expect(c, u.running())
	if c.scene.name != "first boot" {
		g.survived(c.scene.safe(c.events))
	}
	booted, seconds := u.running(), time.Since(began).Seconds()
	if c.twice {
		g.loseAgain(c)
	}
	if c.twice || u.busy() {
		u = g.settled()
	}
	c.scene.finish(g, c, u)
	g.m.Kill()
	g.t.Logf("result: %s | %s | %s | %s | booted %s after %.0f s, twice %v, again %s, all in %.0f s", c.scene.name, c.part.name, c.at, torn.How, booted, seconds, c.twice, c.again, time.Since(began).Seconds())
}

// lose gives the rig the disks that the cut leaves. When the cut fails they are kept as artifacts (go test -artifacts).
func (g *rig) lose(c cut) torndisk.Torn {
	g.t.Helper()
	g.flash, _ = g.take(c, onFlash)
	var torn torndisk.Torn
	g.disk, torn = g.take(c, onDisk)
	return torn
}

func (g *rig) take(c cut, disk int) (*torndisk.Disk, torndisk.Torn) {
	g.t.Helper()
	tear := func() (*torndisk.Disk, torndisk.Torn) {
		d, torn, err := c.scene.journal.Cut(disk, c.events, rand.New(rand.NewPCG(c.seed, c.number)))
		if err != nil {
			g.t.Fatal(err)
		}
		return d, torn
	}
	d, torn := tear()
	kept := g.t.ArtifactDir()
	g.t.Cleanup(func() {
		g.m.Kill()
		if err := d.Close(); err != nil {
			g.t.Error(err)
		}
		if g.t.Failed() {
			d, _ := tear()
			g.dump(d, filepath.Join(kept, []string{"disk", "flash"}[disk]), 0, d.Size())
			_ = d.Close() // it was only read
		}
	})
	return d, torn
}

// expect wants the release that must run where that is certain, and else one of the two.
func (g *rig) expect(c cut, running string) {
	g.t.Helper()
	s := c.scene
	want := []string{s.from, s.to}
	over := s.part("shutdown")
	if s.name == "rollback" {
		over = s.part("boot")
	}
	switch {
	case !s.touched(c.events):
		want = []string{s.from}
	case over.from > 0 && c.events >= over.from:
		want = []string{s.to}
	}
	if !strings.Contains(" "+strings.Join(want, " ")+" ", " "+running+" ") {
		g.t.Fatalf("%q runs, and not %s", running, strings.Join(want, " or "))
	}
}

// survived wants the container to have what it was told to be safe.
func (g *rig) survived(safe int) {
	g.t.Helper()
	var said string
	g.await("the container works", func() (err error) { said, err = g.count(); return err })
	n, err := strconv.Atoi(said)
	if err != nil || n <= safe {
		g.t.Fatalf("the container's volume has %q, and it was told that %d is safe", said, safe)
	}
	g.tally = n
}

// loseAgain asks for what was cut once more, and cuts the power of that as well.
func (g *rig) loseAgain(c cut) {
	g.t.Helper()
	writes, after := 1+c.random.Int64N(120), time.Duration(c.random.IntN(30_000))*time.Millisecond
	g.disk.StopAtWrite(writes)
	command := g.Command(c.verb("--no-wait")...)
	if err := command.Start(); err != nil {
		g.t.Fatal(err)
	}
	how := fmt.Sprintf("at write %d", writes)
	select {
	case <-g.disk.Stopped():
	case <-time.After(after):
		how = fmt.Sprintf("after %.1f s", after.Seconds())
		g.disk.Stop()
	}
	_ = command.Process.Kill() // its machine does not answer any more
	_ = command.Wait()
	g.lost(c, how)
	g.start()
	if running := g.status().running(); running != c.scene.from && running != c.scene.to {
		g.t.Fatalf("%q runs, and not %s or %s", running, c.scene.from, c.scene.to)
	}
	g.survived(g.tally)
}

func (c cut) verb(flag string) []string {
	if c.scene.name == "rollback" {
		return []string{"machine", "rollback", flag}
	}
	return []string{"machine", "update", "apply", "--to", c.scene.to, flag} // newer ones are there
}

// lost ends QEMU, and takes from the disk what it was not told to flush.
func (g *rig) lost(c cut, how string) {
	g.t.Helper()
	g.disk.Stop()
	g.m.Kill()
	torn, err := g.disk.Tear(c.random)
	if err == nil {
		_, err = g.flash.Tear(rand.New(rand.NewPCG(0, 0)))
	}
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Logf("cut again %s: %d sectors were not flushed, %s: %d lost something", how, torn.Unsafe, torn.How, torn.Older)
}

// finishUpdate wants the new release to run, or to be brought again: to its end, or until it is
// written so that not even a power cut takes it away.
func (g *rig) finishUpdate(c cut, u update) {
	g.t.Helper()
	s := c.scene
	if slices.ContainsFunc(u.Avoided, func(a string) bool { return strings.HasPrefix(a, s.to) }) {
		g.t.Fatalf("a good release is avoided: %+v", u)
	}
	runs := u.running() == s.to
	if !runs && c.again != not {
		flag := "--stage-only"
		if runs = c.again == whole; runs {
			flag = "--timeout=10m"
		}
		if r := g.Try(c.verb(flag)...); r.Code != 0 {
			g.t.Fatalf("the update asked for again: %+v\n%+v", r, g.status())
		}
		u = g.settled()
		g.work()
	}
	files := []string{"wherry_" + s.from + ".efi"}
	switch {
	case runs:
		g.clean(s.to)
		files = append(files, "wherry_"+s.to+".efi")
	case u.running() != s.from:
		g.t.Fatalf("%q runs: %+v", u.running(), u)
	case u.Phase == "staged":
		files = append(files, "wherry_"+s.to+"+3.efi")
	case c.again != not:
		g.t.Fatalf("it is not staged: %+v", u)
	}
	g.lost(c, "when it was done")
	g.judge(files...)
}

// finishRollback wants the old release to run, and the new one not to be started again.
func (g *rig) finishRollback(c cut, u update) {
	g.t.Helper()
	s := c.scene
	if u.running() != s.to {
		if r := g.Try(c.verb("--timeout=10m")...); r.Code != 0 {
			g.t.Fatalf("the rollback asked for again: %+v\n%+v", r, g.status())
		}
	}
	g.await("the old release runs", func() error {
		if u = g.status(); u.running() != s.to || u.Phase != "idle" {
			return fmt.Errorf("%+v", u)
		}
		return nil
	})
	g.work()
	if len(u.Avoided) != 1 || !strings.HasPrefix(u.Avoided[0], s.from) {
		g.t.Errorf("%s is not avoided: %+v", s.from, u)
	}
	for _, x := range u.Slots {
		if x.Version == s.from && !x.Bad {
			g.t.Errorf("%s would be started again: %+v", s.from, u)
		}
	}
	g.lost(c, "when it was done")
	g.judge("wherry_"+s.to+".efi", "wherry_"+s.from+"+0.efi")
}

// finishBirth wants a machine that is as good as if it had been started once.
func (g *rig) finishBirth(c cut, _ update) {
	g.t.Helper()
	if out := g.Run("status", "-o", "json"); !strings.Contains(strings.ReplaceAll(out, " ", ""), `"persistent":true`) {
		g.t.Errorf("the state is not on the disk: %s", out)
	}
	if text := g.m.Console(); strings.Contains(text, "state in memory") {
		g.t.Error("the state was not formatted")
	}
	g.lost(c, "when it was done")
	g.judge("wherry_" + firstRelease + ".efi")
	g.start()
	g.Run("status")
}

// settled waits until the machine does nothing by itself.
func (g *rig) settled() (u update) {
	g.t.Helper()
	g.await("it is decided", func() error {
		if u = g.status(); u.busy() {
			return fmt.Errorf("%s %s", u.Phase, u.Target)
		}
		return nil
	})
	return u
}

// dump writes a piece of a disk to a file, with holes where there is nothing.
func (g *rig) dump(d *torndisk.Disk, path string, from, to int64) string {
	g.t.Helper()
	out, err := os.Create(path)
	if err != nil {
		g.t.Fatal(err)
	}
	defer out.Close()
	if err := out.Truncate(to - from); err != nil {
		g.t.Fatal(err)
	}
	in := io.NewSectionReader(d, from, to-from)
	for at, piece := int64(0), make([]byte, 64<<10); ; {
		n, err := io.ReadFull(in, piece)
		if n > 0 && strings.Trim(string(piece[:n]), "\x00") != "" {
			if _, err := out.WriteAt(piece[:n], at); err != nil {
				g.t.Fatal(err)
			}
		}
		if at += int64(n); err != nil {
			return path
		}
	}
}
