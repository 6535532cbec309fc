// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package power

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"wherry.example/wherry/internal/host/disk"
	"wherry.example/wherry/internal/host/qemu"
)

// phase is a part of an update, in their order.
type phase int32

const (
	asking phase = iota
	download
	staging
	shutdown
	booting // firmware, boot loader, kernel, and all until the machine is ready
	trying
	blessing // from the first write to the boot partition in the trial on
	done
)

func (p phase) String() string {
	return [...]string{"asking", "download", "staging", "shutdown", "boot", "trial", "blessing", "done"}[p]
}

// mark is how long a phase took, in time and in writes to the disk.
type mark struct {
	took   time.Duration
	writes int64
}

// The boot partition's bytes of the disk.
const (
	espFrom = 1 << 20
	espTo   = disk.Bytes - 1<<20
)

// cut is one power cut.
type cut struct {
	seed, number uint64
	random       *rand.Rand
	phase        phase
	// at is the write of the phase at which the disk stops; none: after is the time.
	at    int64
	after time.Duration
}

// blessingWrites are more than there are until the blessing and the record of it are on the disk.
const blessingWrites = 30

// newCut plans one. The phases take turns, so that a few cuts in a row see several.
func newCut(seed, number uint64, measured map[phase]mark) cut {
	c := cut{seed: seed, number: number, random: rand.New(rand.NewPCG(seed, number))}
	order := []phase{staging, blessing, shutdown, trying, download, booting, staging}
	c.phase = order[(seed+number)%uint64(len(order))]
	m := measured[c.phase]
	c.after = time.Duration(c.random.Float64() * float64(m.took))
	switch {
	case c.phase == blessing:
		c.at = 1 + c.random.Int64N(blessingWrites)
	case m.writes > 0 && c.random.IntN(3) > 0:
		c.at = 1 + c.random.Int64N(m.writes)
	}
	return c
}

func (c cut) String() string {
	if c.at > 0 {
		return fmt.Sprintf("seed %d, cut %d: %s, write %d", c.seed, c.number, c.phase, c.at)
	}
	return fmt.Sprintf("seed %d, cut %d: %s, after %.1f s", c.seed, c.number, c.phase, c.after.Seconds())
}

// cut brings the next release, cuts the power once, and wants it to end well.
func (g *rig) cut(c cut) {
	old, target := g.running, g.release()
	g.work()
	begin := time.Now()
	reached := g.journey(target, &c)
	g.m.Kill()
	torn, err := g.disk.Tear(c.random)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Logf("%s: cut in %s; %d sectors were not flushed, %s: %d lost something", c, reached, torn.Unsafe, torn.How, torn.Older)
	g.start()
	booted := g.status().running()
	if booted != old && booted != target {
		g.t.Fatalf("%q runs, and not %s or %s", booted, old, target)
	}
	g.work()
	u := g.settled()
	g.t.Logf("it booted %s, and is at %s: %s", booted, u.running(), u.Phase)
	if u.running() != target || u.Phase != "idle" {
		if r := g.Try("machine", "update", "apply"); r.Code != 0 {
			g.t.Fatalf("the update asked for again: %+v\n%+v", r, g.status())
		}
		g.work()
	}
	g.clean(target)
	g.t.Logf("%s runs after %.0f s", target, time.Since(begin).Seconds())
}

// whole is an update that nobody cuts. It measures the phases.
func (g *rig) whole(target string) {
	g.t.Helper()
	g.journey(target, nil)
	g.settled()
	g.work()
	g.clean(target)
	for p := download; p < blessing; p++ {
		g.t.Logf("phase %s: %.1f s, %d writes", p, g.measured[p].took.Seconds(), g.measured[p].writes)
	}
}

// settled waits until the machine does nothing by itself.
func (g *rig) settled() (u update) {
	g.t.Helper()
	g.await("it is decided", func() error {
		if u = g.status(); u.Phase != "idle" && u.Phase != "staged" {
			return fmt.Errorf("%s %s", u.Phase, u.Target)
		}
		return nil
	})
	return u
}

// journey updates to a release and tells how far it came. With a cut the disk stops there;
// without one the phases are measured.
func (g *rig) journey(target string, c *cut) phase {
	g.t.Helper()
	g.await("the release is offered", func() error { // the machine's clock may be a moment behind
		if r := g.Try("machine", "update", "check"); !strings.Contains(r.Stdout, target) {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	w := &watch{rig: g, target: target, from: len(g.m.Console()), cut: c, marks: map[phase]mark{}, since: time.Now(), writes: g.disk.Writes()}
	command := g.Command("machine", "update", "apply", "--no-wait")
	stderr, err := command.StderrPipe()
	if err != nil {
		g.t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		g.t.Fatal(err)
	}
	said := make(chan string, 1)
	go func() {
		var all strings.Builder
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			all.WriteString(lines.Text() + "\n")
			w.hear(lines.Text())
		}
		said <- all.String()
	}()
	w.follow()
	_ = command.Process.Kill() // its machine may not answer any more
	text := <-said
	_ = command.Wait()
	if w.failed != "" {
		g.t.Fatalf("%s\n%s", w.failed, text)
	}
	if c == nil {
		g.measured = w.marks
	}
	return w.now
}

// watch follows an update by what the CLI and the console say.
type watch struct {
	*rig
	target string
	from   int // of the console
	cut    *cut
	heard  atomic.Int32

	now    phase
	since  time.Time
	writes int64
	marks  map[phase]mark
	failed string
}

// hear reads a line of the CLI.
func (w *watch) hear(line string) {
	for prefix, p := range map[string]phase{"downloading ": download, "staging ": staging, "machine ": shutdown} {
		if strings.HasPrefix(line, prefix) && int32(p) > w.heard.Load() {
			w.heard.Store(int32(p))
		}
	}
}

// look tells which phase it is.
func (w *watch) look() phase {
	p := phase(w.heard.Load())
	console := w.m.Console()
	console = console[min(w.from, len(console)):]
	_, ready := qemu.ParseReady([]byte(console))
	switch {
	case strings.Contains(console, w.target+" is here to stay"):
		return done
	case ready:
		return trying
	case strings.Contains(console, "BdsDxe: "):
		return booting
	case strings.Contains(console, ": restarting"):
		return shutdown
	}
	return p
}

// follow ends when the disk stopped, or the release has stayed.
func (w *watch) follow() {
	deadline := time.Now().Add(patience)
	var alarm <-chan time.Time
	for {
		select {
		case <-w.disk.Stopped():
			return
		case <-alarm:
			w.disk.Stop()
			return
		case <-time.After(30 * time.Millisecond):
		}
		if p := w.look(); p > w.now {
			w.enter(p)
			if w.cut != nil && p >= w.cut.phase || w.cut != nil && p == trying && w.cut.phase == blessing {
				alarm = w.arm()
			}
			if p == done && w.cut == nil {
				return
			}
		}
		if _, running := w.m.VM().Run(); !running || time.Now().After(deadline) {
			w.failed = fmt.Sprintf("the update to %s came no further than %s", w.target, w.now)
			return
		}
	}
}

// enter begins a phase.
func (w *watch) enter(p phase) {
	now, writes := time.Now(), w.disk.Writes()
	w.marks[w.now] = mark{now.Sub(w.since), writes - w.writes}
	w.now, w.since, w.writes = p, now, writes
}

// arm sets the trap of the cut; a phase that went by faster than it was planned ends with the cut.
func (w *watch) arm() <-chan time.Time {
	switch {
	case w.cut.phase == blessing && w.now == trying:
		w.disk.StopAfter(w.cut.at, espFrom, espTo)
	case w.cut.phase == blessing:
		return time.After(time.Second) // for the record of it
	case w.now > w.cut.phase:
		w.disk.Stop()
	case w.cut.at > 0:
		w.disk.StopAtWrite(w.cut.at)
	default:
		return time.After(w.cut.after)
	}
	return nil
}

// outsideOfSlots is how many bytes of the boot partition are taken by something else than OS files.
func (g *rig) outsideOfSlots(u update) int64 {
	g.t.Helper()
	f, err := os.Open(g.file())
	if err != nil {
		g.t.Fatal(err)
	}
	defer f.Close()
	var boot [512]byte
	if _, err := f.ReadAt(boot[:], espFrom); err != nil {
		g.t.Fatal(err)
	}
	little := binary.LittleEndian
	cluster, start := int64(boot[13])*512, espFrom+int64(little.Uint16(boot[14:]))*512
	table := make([]byte, int64(little.Uint32(boot[36:]))*512)
	if _, err := f.ReadAt(table, start); err != nil {
		g.t.Fatal(err)
	}
	var used int64
	for i := 8; i < len(table); i += 4 { // the first two entries are no clusters
		if little.Uint32(table[i:])&0x0fffffff != 0 {
			used += cluster
		}
	}
	for _, s := range u.Slots {
		used -= (bytesOf(s.Bytes) + cluster - 1) / cluster * cluster
	}
	return used
}

func bytesOf(n json.Number) int64 {
	v, _ := strconv.ParseInt(n.String(), 10, 64)
	return v
}
