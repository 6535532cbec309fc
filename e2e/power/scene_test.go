// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package power

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"wherry.example/wherry/internal/host/disk"
	"wherry.example/wherry/internal/host/qemu"
	"wherry.example/wherry/internal/vmtest/torndisk"
)

// The boot partition's bytes of the disk.
const (
	espFrom = 1 << 20
	espTo   = disk.Bytes - 1<<20
)

// The machine's disks in a journal.
const (
	onDisk  = 0
	onFlash = 1
)

// scene is something that the machine did while it was written down.
type scene struct {
	name     string
	journal  *torndisk.Journal
	events   []torndisk.Event
	parts    []part
	from, to string // the releases that it is about: the one that ran, the one that comes
	begin    progress
	told     []told
	// finish wants it to end well after a cut, whatever the machine has made of it.
	finish func(*rig, cut, update)
}

// part of a scene, by its events.
type part struct {
	name     string
	from, to int
}

// told is what the container was told to be safe, after so many events.
type told struct{ events, tally int }

func (s *scene) part(name string) part {
	for _, p := range s.parts {
		if p.name == name {
			return p
		}
	}
	return part{}
}

// safe is what the container must still have after a cut.
func (s *scene) safe(events int) int {
	tally := s.begin.tally
	for _, t := range s.told {
		if t.events <= events {
			tally = t.tally
		}
	}
	return tally
}

// touched tells whether a file of the boot partition may have changed by then.
func (s *scene) touched(events int) bool {
	for _, e := range s.events[:events] {
		if isBoot(e) {
			return true
		}
	}
	return false
}

func isBoot(e torndisk.Event) bool {
	return e.Disk == onDisk && !e.Flush && e.Offset >= espFrom && e.Offset < espTo
}

// record begins to write down what the machine asks of its disks. It must not run, or be paused.
func (g *rig) record() *torndisk.Journal {
	g.t.Helper()
	j, err := torndisk.Record(g.t.TempDir(), g.disk, g.flash)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		if err := j.Close(); err != nil {
			g.t.Error(err)
		}
	})
	return j
}

// scenes are what is cut: all, or the update alone.
func (g *rig) scenes(all bool) []*scene {
	g.t.Helper()
	out := []*scene{g.update()}
	if all {
		out = append(out, g.rollback(), g.delta(), g.firstBoot())
	}
	g.m.Kill()
	for _, s := range out {
		for _, p := range s.parts {
			if p.to > p.from {
				took := s.events[p.to-1].At - s.events[p.from].At
				g.t.Logf("%s, %s: %d events, %.1f s", s.name, p.name, p.to-p.from, took.Seconds())
			}
		}
	}
	return out
}

// stage is a part that has begun when it says so; it is asked again and again.
type stage struct {
	name  string
	begun func(console, heard string) bool
}

func heard(prefix string) func(string, string) bool {
	return func(_, heard string) bool { return strings.Contains(heard, "\n"+prefix) }
}

func shown(text string) func(string, string) bool {
	return func(console, _ string) bool { return strings.Contains(console, text) }
}

func ready(console, _ string) bool {
	_, ok := qemu.ParseReady([]byte(console))
	return ok
}

// update goes to another release.
func (g *rig) update() *scene {
	g.t.Helper()
	target := g.release("none")
	s := &scene{name: "update", from: g.running, to: target, finish: (*rig).finishUpdate}
	g.play(s, []string{"machine", "update", "apply", "--no-wait"}, []stage{
		{"download", heard("downloading ")}, {"staging", heard("staging ")}, {"shutdown", shown(": restarting")},
		{"boot", shown("BdsDxe: ")}, {"trial", ready}, {"", shown(target + " is here to stay")},
	})
	g.running = target
	trial := s.part("trial")
	for n := trial.from; n < trial.to; n++ {
		if isBoot(s.events[n]) {
			s.parts[len(s.parts)-1].to = n
			s.parts = append(s.parts, part{"blessing", n, len(s.events)})
			break
		}
	}
	return s
}

// rollback leaves the release again, by hand.
func (g *rig) rollback() *scene {
	g.t.Helper()
	from := g.running
	s := &scene{name: "rollback", from: from, to: firstRelease, finish: (*rig).finishRollback}
	g.play(s, []string{"machine", "rollback", "--no-wait"}, []stage{
		{"leaving", func(_, heard string) bool { return true }}, {"shutdown", shown(": restarting")},
		{"boot", shown("BdsDxe: ")}, {"back", ready}, {"", shown("rolled back from " + from)},
	})
	g.running = firstRelease
	return s
}

// delta makes the next release's file out of the running one.
func (g *rig) delta() *scene {
	g.t.Helper()
	target := g.release("3")
	s := &scene{name: "delta", from: g.running, to: target, finish: (*rig).finishUpdate}
	g.play(s, []string{"machine", "update", "apply", "--stage-only"}, []stage{
		{"download", heard("downloading ")}, {"rebuilding", heard("rebuilding ")}, {"staging", heard("staging ")}, {"", heard("staged ")},
	})
	if s.part("rebuilding").to == 0 {
		g.t.Fatalf("no delta was taken: %+v", s.parts)
	}
	return s
}

// firstBoot is what the machine did when it was new.
func (g *rig) firstBoot() *scene {
	return &scene{name: "first boot", journal: g.birth, events: g.born, from: firstRelease, to: firstRelease,
		parts: []part{{"boot", 0, len(g.born)}}, finish: (*rig).finishBirth}
}

// play has the machine do something, and writes it down in parts.
func (g *rig) play(s *scene, command []string, stages []stage) {
	g.t.Helper()
	if s.to != firstRelease {
		g.await("the release is offered", func() error { return g.offered(s.to) })
	}
	g.work()
	s.begin = *g.progress
	g.m.QMP("stop", nil)
	s.journal = g.record()
	g.m.QMP("cont", nil)
	w := &watch{rig: g, scene: s, from: len(g.m.Console()), stages: stages}
	var side sync.WaitGroup
	stop := make(chan struct{})
	side.Go(func() { w.count(stop) })
	c := g.Command(command...)
	stderr, err := c.StderrPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		g.t.Fatal(err)
	}
	side.Go(func() { w.listen(stderr) })
	failed := w.follow()
	close(stop)
	_ = c.Process.Kill() // it may wait for a machine that is gone
	side.Wait()
	_ = c.Wait()
	if s.events, err = s.journal.End(); err != nil || failed != "" {
		g.t.Fatalf("%s: %v%s\n%s", s.name, err, failed, w.heard.String())
	}
	s.parts[len(s.parts)-1].to = len(s.events)
	g.tally = s.safe(len(s.events))
	g.survived(g.tally)
}

// watch follows a scene by what the CLI and the console say.
type watch struct {
	*rig
	scene  *scene
	from   int // of the console
	stages []stage

	mu    sync.Mutex
	heard strings.Builder
}

// listen reads what the CLI tells.
func (w *watch) listen(stderr io.Reader) {
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		w.mu.Lock()
		w.heard.WriteString("\n" + lines.Text())
		w.mu.Unlock()
	}
}

// count has the container count on, as often as it can.
func (w *watch) count(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(2 * time.Second):
		}
		r := w.Try("exec", "work", "/toybox", "tally", "/data/tally")
		if n, err := strconv.Atoi(strings.TrimSpace(r.Stdout)); err == nil && r.Code == 0 {
			w.scene.told = append(w.scene.told, told{w.scene.journal.Len(), n})
		}
	}
}

// rest is how long the machine may take to write down what it has told.
const rest = 5 * time.Second

// follow notes when each stage began, and ends a while after the last did.
func (w *watch) follow() (failed string) {
	s := w.scene
	for deadline := time.Now().Add(patience); len(w.stages) > 0; time.Sleep(50 * time.Millisecond) {
		console := w.m.Console()
		console = console[min(w.from, len(console)):]
		w.mu.Lock()
		text := w.heard.String()
		w.mu.Unlock()
		for i, next := range w.stages {
			if next.begun(console, text) {
				w.enter(next.name, s.journal.Len())
				w.stages = w.stages[i+1:]
				break
			}
		}
		if _, running := w.m.VM().Run(); !running || time.Now().After(deadline) {
			return fmt.Sprintf("came no further than %+v", s.parts)
		}
	}
	time.Sleep(rest)
	return ""
}

func (w *watch) enter(name string, at int) {
	s := w.scene
	if len(s.parts) > 0 && name != "" {
		s.parts[len(s.parts)-1].to = at
	}
	if name != "" {
		s.parts = append(s.parts, part{name: name, from: at})
	}
}
