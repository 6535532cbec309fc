// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/machine/status"
	"wherry.example/wherry/release"
)

// world is a machine with its firmware, boot partition and state disk. Power can
// be cut before or after any lasting change.
type world struct {
	t          testing.TB
	dir        string
	root       string // file of the root role
	config     config.Updates
	now        time.Time
	clockSet   bool
	persistent bool
	limits     *release.Limits
	deltas     Deltas
	how        map[string]string // version → what is wrong with it: "unloadable", "panics", "unwell", "no state", "crashes once"
	free       int64

	mu       sync.Mutex
	slots    map[string]*file
	running  string
	boot     int
	starts   []string // versions that the loader started, in order
	cutAt    []int    // the changes at which the power goes
	cutAfter bool
	changes  int
	dark     bool
	end      context.CancelFunc // of this boot
	rebooted bool
	refuses  error // of Accepts
	space    int   // files that the boot partition has room for; 0: three
	settled  bool
	events   []string
	console  []string
	board    *status.Board
	// during is done while a release is on trial, and then the trial goes on until it is ended.
	during func(*Updater)
	up     *Updater
	// returned: somebody waited for what ran before, in the old release.
	returned atomic.Bool
}

type file struct {
	sum                string
	counted            bool
	left, done         int
	damaged, neverSeen bool
}

var errDark = errors.New("the power is gone")

func newWorld(t testing.TB, runs string) *world {
	w := &world{
		t: t, dir: memoryDir(t), persistent: true, clockSet: true, now: release.Epoch.Add(100 * 24 * time.Hour), free: 10 << 30,
		how: map[string]string{}, slots: map[string]*file{runs: {}}, board: &status.Board{},
	}
	return w
}

// memoryDir is a folder where fsync costs nothing, if there is one: what a power cut leaves is decided by world.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "wherry-update-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// change makes a lasting change, unless the power goes before it.
func (w *world) change(do func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dark {
		return errDark
	}
	w.changes++
	cut := slices.Contains(w.cutAt, w.changes)
	if cut {
		w.dark = true
		w.end()
	}
	if !cut || w.cutAfter {
		do()
	}
	if cut {
		return errDark
	}
	return nil
}

// start is the firmware and the loader: the newest file that is not bad, counted if it has a counter.
func (w *world) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dark, w.rebooted, w.settled = false, false, false
	for {
		v := w.newest(func(f *file) bool { return !f.counted || f.left > 0 })
		if v == "" {
			w.t.Fatalf("the machine does not boot any more: %v", w.slots)
		}
		f := w.slots[v]
		if f.counted {
			f.left--
			f.done++
		}
		w.starts = append(w.starts, v)
		if h := w.how[v]; f.damaged || h == "unloadable" || h == "panics" {
			if !f.counted {
				w.t.Fatalf("%s is blessed and does not start", v)
			}
			continue
		}
		w.running = v
		w.boot++
		return
	}
}

func (w *world) newest(ok func(*file) bool) (best string) {
	for v, f := range w.slots {
		if ok(f) && (best == "" || olderFirst(best, v) < 0) {
			best = v
		}
	}
	return best
}

// updater is a new wherryd.
func (w *world) updater() *Updater {
	run, dir := w.t.TempDir(), filepath.Join(w.dir, "update")
	if !w.isPersistent() {
		dir = w.t.TempDir() // what it writes is gone after the boot
	}
	u := New(Options{
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Board: w.board, Dir: dir, RunDir: run,
		Persistent: w.isPersistent(), Version: w.running, Edition: "core", Arch: "amd64", RootFile: w.root,
		Slots: worldSlots{w}, Trial: worldTrial{w}, Deltas: w.deltas, Limits: w.limits,
		Reboot:   func() error { return w.change(func() { w.rebooted = true; w.end() }) },
		ClockSet: func() bool { return w.clockSet },
		Event:    func(a, v, m string) { w.events = append(w.events, a+" "+v) },
		Console:  func(_, how string) { w.mu.Lock(); w.console = append(w.console, how); w.mu.Unlock() },
		Now:      func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); w.now = w.now.Add(time.Second); return w.now },
		Free:     func(string) (int64, error) { w.mu.Lock(); defer w.mu.Unlock(); return w.free, nil },
	})
	save := u.save
	u.save = func(r Record) error {
		var err error
		return cmpErr(w.change(func() { err = save(r) }), &err)
	}
	u.Configure(w.config)
	return u
}

func cmpErr(first error, second *error) error {
	if first != nil {
		return first
	}
	return *second
}

func (w *world) isPersistent() bool { return w.persistent && w.how[w.running] != "no state" }

// life runs wherryd for one boot: reconcile, then do (nil: nothing) if this boot is settled.
func (w *world) life(do func(u *Updater) error) (err error) {
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	w.mu.Lock()
	w.end = cancel
	w.mu.Unlock()
	u := w.updater()
	defer func() { cancel(); u.side.Wait() }()
	u.o.again, w.up = 0, u
	u.o.bootID = fmt.Sprint("boot ", w.boot)
	if !u.settle(ctx) || ctx.Err() != nil {
		return nil
	}
	_, serr := os.Stat(filepath.Join(u.o.RunDir, settledFile))
	w.mu.Lock()
	w.settled = serr == nil
	w.mu.Unlock()
	if do != nil {
		err = do(u)
	}
	u.Close(ctx)
	return err
}

// untilQuiet boots until a boot is settled and stays.
func (w *world) untilQuiet() {
	w.t.Helper()
	for range 20 {
		w.start()
		w.life(nil)
		if !w.rebooted && !w.dark {
			if !w.settled {
				w.t.Fatalf("a boot of %s is never settled: %+v", w.running, w.record())
			}
			return
		}
	}
	w.t.Fatalf("the machine restarts for ever: %v", w.starts)
}

func (w *world) record() Record {
	w.t.Helper()
	r, err := load(filepath.Join(w.dir, "update", "record.json"))
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) isDark() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dark
}

// worldSlots is the boot partition.
type worldSlots struct{ *world }

func (w worldSlots) Supported() error { return nil }

func (w worldSlots) Running() (Slot, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.slot(w.running), nil
}

func (w worldSlots) slot(v string) Slot {
	f := w.slots[v]
	return Slot{Version: v, Running: v == w.running, Trial: f.counted, TriesLeft: f.left, TriesDone: f.done, Bad: f.counted && f.left == 0}
}

func (w worldSlots) List() (out []Slot, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range slices.SortedFunc(maps.Keys(w.slots), func(a, b string) int { return olderFirst(b, a) }) {
		out = append(out, w.slot(v))
	}
	return out, nil
}

func (w worldSlots) Stage(ctx context.Context, version string, src *os.File, progress func(done, total int64)) error {
	data, err := os.ReadFile(src.Name())
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	if others := len(w.slots); others >= cmp.Or(w.space, 3) {
		return fmt.Errorf("%w: it holds %d files", ErrNoRoom, others)
	}
	progress(1, 2)
	return w.change(func() {
		w.slots[version] = &file{sum: hex.EncodeToString(sum[:]), counted: true, left: 3, damaged: w.how[version] == "damaged"}
	})
}

func (w worldSlots) Check(_ context.Context, version, sha string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.slots[version]
	if f == nil || f.sum != sha || f.damaged && f.done > 0 {
		return errors.New("it is damaged")
	}
	return nil
}

func (w worldSlots) Bless() error {
	return w.change(func() { *w.slots[w.running] = file{sum: w.slots[w.running].sum} })
}

func (w worldSlots) Retire(v string) error {
	return w.change(func() {
		if f := w.slots[v]; f != nil {
			f.counted, f.left = true, 0
		}
	})
}

func (w worldSlots) Remove(v string) error {
	return w.change(func() {
		if v == w.running {
			w.t.Errorf("the running slot is to be removed")
		}
		delete(w.slots, v)
	})
}

func (w worldSlots) Accepts(*os.File) error { return w.refuses }

// worldTrial judges by what is wrong with the release.
type worldTrial struct{ *world }

func (w worldTrial) Baseline(context.Context) (json.RawMessage, error) {
	return json.RawMessage(`{"containers":["redis"]}`), nil
}

func (w worldTrial) Return(ctx context.Context, baseline json.RawMessage, limit time.Duration, progress func(Health)) error {
	w.returned.Store(true)
	return w.Wait(ctx, baseline, limit, progress)
}

func (w worldTrial) Wait(ctx context.Context, baseline json.RawMessage, limit time.Duration, progress func(Health)) error {
	starting := Health{Checks: []Check{{Name: "containers", Well: false, Message: "redis is starting"}}}
	progress(starting)
	if do := w.during; do != nil && !w.isDark() {
		w.during = nil
		do(w.up)
		<-ctx.Done()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.dark || ctx.Err() != nil:
		return errDark
	case w.how[w.running] == "crashes": // the machine is restarted by PID 1 or the watchdog
		w.rebooted = true
		w.end()
		return errDark
	case w.how[w.running] == "unwell":
		w.now = w.now.Add(time.Minute)
		starting.Working = 50 * time.Second // it runs, and is not healthy
		w.mu.Unlock()
		progress(starting)
		w.mu.Lock()
		return errors.New("containers: redis is not healthy: connection refused")
	}
	w.now = w.now.Add(90 * time.Second)
	w.mu.Unlock()
	progress(Health{Held: 10 * time.Second, Needed: 10 * time.Second, Working: 70 * time.Second, Checks: []Check{{Name: "containers", Well: true}}})
	w.mu.Lock()
	return nil
}
