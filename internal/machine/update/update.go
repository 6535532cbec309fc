// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package update replaces the machine's OS by another release, and takes that back
// when the machine's work is not well with it. It is the one state machine of that:
//
//	         download, verify      write to the boot partition       reboot
//	┌──────┐  ───────────────► (attempt) ───────────────► ┌────────┐ ────────► ┌────────┐
//	│ idle │                      │ cut: taken away       │ staged │           │ trying │
//	└──────┘ ◄────────────────────┘                       └────────┘           └────────┘
//	    ▲                                                     │                 │      │
//	    │                 the file never started, or          │   all is well:  │      │ not well, or
//	    │                 PID 1, wherryd never came up        │   bless         │      │ by hand: retire,
//	    │            ┌────────────────────────────────────────┘                 ▼      │ reboot
//	    │            ▼                                                  ┌───────────┐  │
//	    │     ┌─────────────┐                                           │ committed │  │
//	    ├──── │ rolled back │ ◄─────────────────────────────────────────┼───────────┼──┘
//	    │     └─────────────┘                                           └───────────┘
//	    └───────────────────────────────────────────────────────────────────┘ a newer release
//
// The machine's record (STATE/update/record.json) says where it is; it is written before the
// step that it tells of, and each step can be done again. What the boot loader counted is the other half of
// the truth. Once per start of wherryd, Decide (pure) reconciles the two, for every place
// where the power may have gone, and when the record is lost.
//
// It owns STATE/update (the record, the id for rollouts, verified metadata,
// the download with how it came, a bundle that was sent), and /run/wherry/settled-release: the empty file is there
// once this boot is no trial, or not any more. PID 1 restarts a machine on trial on which it does not appear,
// after ten minutes or later, if /run/wherry/trial-limit gives the trial longer.
// It reads the repository of the configuration, bundles that people send, and
// *.wherry files on USB sticks that are there at boot, all through package release, and believes nothing
// else. The boot partition is reached through Slots, the judgement of the machine's work
// through Trial (seams.go).
//
// Failures: nothing before staging changes the machine; a download goes on where it
// ended. Metadata that is refused is asked for again with growing pauses.
// One attempt at a time: who comes second gets a conflict, which tells what is under way. Only who asks for
// what the machine is at by itself, or for just what somebody else has asked for, joins (job.go): they see how far it is, and what the machine
// does by itself goes on as they want it. Where the OS file cannot be
// replaced (no boot partition, state in memory), the board says why and nothing runs.
package update

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/machine/status"
	"wherry.example/wherry/release"
)

const (
	boardLine   = "update"
	settledFile = "settled-release"
	trialFile   = "trial-limit"
)

// Options are what updates need of the machine.
type Options struct {
	Log   *slog.Logger
	Board *status.Board
	// Dir is /state/update, RunDir /run/wherry; Persistent says that the state is on a disk.
	Dir, RunDir string
	Persistent  bool
	// Version, Edition and Arch are the running release's.
	Version, Edition, Arch string
	// RootFile holds the root role of the image.
	RootFile string

	Slots  Slots
	Trial  Trial
	Deltas Deltas // nil: whole files only

	// Reboot asks PID 1 for an ordinary shutdown and a restart.
	Reboot func() error
	// ClockSet says whether a time server has confirmed the clock.
	ClockSet func() bool
	// Died is why a kernel before this one died, if one did and could tell.
	Died string
	// Verified is how this boot was verified; nil: nobody knows.
	Verified func() *wherryv1.UpdateTrust
	// Event tells of a change: staged, trying, committed, rolled-back.
	Event func(action, version, message string)
	// Console prints a line for people at the screen.
	Console func(what, how string)
	// Sticks calls use with each bundle on a removable disk, and wrong with what is amiss with one. Nil: nobody looks.
	Sticks func(ctx context.Context, use func(file string), wrong func(error)) error

	Now    func() time.Time // nil: time.Now
	Limits *release.Limits  // nil: the default
	Free   func(dir string) (int64, error)

	bootID string        // different after each boot
	again  time.Duration // between attempts at what can fail for a moment
}

// Updater is the state machine of one machine.
type Updater struct {
	o       Options
	version release.Version
	id      string
	wake    chan struct{}

	save    func(Record) error // to the disk
	side    sync.WaitGroup     // what ends with Run's context
	writing sync.WaitGroup     // what must not be cut by a shutdown
	alive   context.Context
	kill    context.CancelFunc // ends what may be cut
	wire    atomic.Int64       // bytes that came from repositories and bundles
	close   sync.Once

	mu         sync.Mutex
	settings   Settings
	http       *release.HTTP // of the settings
	record     Record
	reconciled bool  // what this boot is has been found out
	impossible error // why this machine cannot be updated
	job        *job  // that is going on
	closing    bool
	progress   Progress
	trial      trialStatus
	returning  *trialStatus // of measure, while it waits
	cancelTry  context.CancelFunc
	looked     look
}

// look is what the last look into the repository brought.
type look struct {
	offer    *release.Release
	delta    int64
	why      string
	at       time.Time // of the last that reached it
	err      string
	failures int
	next     time.Time
	acts     time.Time // when the machine goes on by itself
}

type trialStatus struct {
	began, ends time.Time
	looked      time.Time // when this was so:
	Health
}

// Progress is how far an attempt is.
type Progress struct {
	Phase       string // as in api/wherry/v1/update.proto
	Target      string
	Done, Total int64
	Delta       bool
	Message     string
	RebootAt    time.Time
}

// New reads the record. Nothing is done before Run.
func New(o Options) *Updater {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Free == nil {
		o.Free = freeBytes
	}
	o.bootID, o.again = bootID(), time.Second
	alive, kill := context.WithCancel(context.Background())
	u := &Updater{o: o, alive: alive, kill: kill, wake: make(chan struct{}, 1), settings: Settings{Mode: config.UpdatesManual, Channel: release.Stable}}
	u.save = func(r Record) error { return r.save(u.recordFile()) }
	var err error
	if u.record, err = load(u.recordFile()); err != nil {
		o.Log.Warn("updates begin with a new record", "error", err)
	}
	if u.version, err = release.ParseVersion(o.Version); err != nil {
		u.impossible = fmt.Errorf("what runs is no release: %w", err)
	}
	return u
}

func (u *Updater) recordFile() string { return filepath.Join(u.o.Dir, "record.json") }

// Configure follows the configuration. It may be called often with the same.
func (u *Updater) Configure(c config.Updates) {
	s, err := settingsOf(c)
	if err != nil { // config has checked it: a document of another version
		u.o.Log.Warn("updates: the configuration is not understood, so that nothing is done automatically", "error", err)
		s.Mode = config.UpdatesManual
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if reflect.DeepEqual(s.Updates, u.settings.Updates) && s.Mode == u.settings.Mode {
		return
	}
	u.settings, u.http = s, nil
	u.looked.failures = 0
	u.kick()
}

// kick ends the pause of Run.
func (u *Updater) kick() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// Run reconciles, tries what is on trial, and then follows the policy until ctx ends.
func (u *Updater) Run(ctx context.Context) {
	defer u.side.Wait()
	if !u.settle(ctx) {
		return
	}
	if err := u.cannot(); err != nil {
		u.o.Board.Set(boardLine, true, "not possible here: "+err.Error())
		<-ctx.Done()
		return
	}
	u.mu.Lock()
	err := u.identifyLocked()
	u.mu.Unlock()
	u.warn("", err)
	u.tellBoard()
	u.fromSticks(ctx)
	for wait := jitter(firstPoll); u.sleep(ctx, wait); {
		wait = u.round(ctx)
	}
}

// cannot says why this machine cannot be updated.
func (u *Updater) cannot() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.impossible
}

// sleep is false when ctx ended.
func (u *Updater) sleep(ctx context.Context, d time.Duration) bool {
	u.mu.Lock()
	u.looked.next = u.o.Now().Add(d)
	u.mu.Unlock()
	t := time.NewTimer(max(d, shortest))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-u.wake:
	case <-t.C:
	}
	return true
}

// Pauses between looks at a boot partition that could not be read.
const (
	lookAgain = 5 * time.Second
	maxLooks  = 5
)

// settle brings this boot to its end as a trial, if it is one. It is false when
// the machine goes down, or ctx ended.
func (u *Updater) settle(ctx context.Context) bool {
	if err := u.o.Slots.Supported(); err != nil {
		u.forbid(err)
		u.settled()
		return true
	}
	for n := 1; ; n++ {
		s, err := u.seen(ctx, u.current())
		if err == nil {
			return u.carryOut(ctx, Decide(u.current(), s))
		}
		u.o.Log.Warn("updates: the boot partition", "error", err)
		if n == maxLooks {
			u.forbid(fmt.Errorf("the boot partition cannot be read: %w", err))
			if !u.current().under() {
				u.settled()
			}
			return true // whether this is a trial is not known: PID 1 knows, and has its own limit
		}
		if !u.sleep(ctx, lookAgain) {
			return false
		}
	}
}

// forbid remembers why there can be no updates.
func (u *Updater) forbid(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.impossible == nil {
		u.impossible = err
	}
}

// settled tells PID 1 that it need not restart the machine.
func (u *Updater) settled() {
	if err := os.WriteFile(filepath.Join(u.o.RunDir, settledFile), nil, 0o644); err != nil {
		u.o.Log.Error("tell PID 1 that this release stays", "error", err)
	}
	if !u.o.Persistent {
		u.forbid(errors.New("the state is in memory: there is no place for a download, and no memory of how it went"))
	}
}

// current is the record. What it points to is not changed by anybody.
func (u *Updater) current() Record {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.record
}

// keepLocked makes r the record. Only a record on the disk counts.
func (u *Updater) keepLocked(r Record) error {
	if reflect.DeepEqual(r, u.record) {
		return nil
	}
	if err := u.save(r); err != nil {
		return err
	}
	u.record = r
	return nil
}

// amend changes the record.
func (u *Updater) amend(change func(*Record)) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := u.record
	if r.Attempt != nil {
		a := *r.Attempt
		r.Attempt = &a
	}
	change(&r)
	return u.keepLocked(r)
}

// floor is a time that has passed for certain.
func (u *Updater) floor() time.Time {
	floor := u.version.Begun()
	if f := u.current().Floor; f.After(floor) {
		return f
	}
	return floor
}

// tellBoard writes the line of wherry status.
func (u *Updater) tellBoard() {
	u.mu.Lock()
	l, last, under := u.looked, u.record.last(), u.record.Attempt
	state := u.record.State
	u.mu.Unlock()
	left, byHand := last.byHand()
	switch {
	case under != nil && state == release.StateStaged:
		u.o.Board.Set(boardLine, true, fmt.Sprintf("%s is staged: the next restart tries it", under.To))
	case last.Result == Stayed && byHand:
		u.o.Board.Set(boardLine, false, fmt.Sprintf("the machine could not go back from %s: %s", left, firstLine(last.Reason)))
	case last.Result == Stayed, last.Result == RolledBack && !byHand:
		u.o.Board.Set(boardLine, false, fmt.Sprintf("%s did not work here: %s", last.To, firstLine(last.Reason)))
	case l.err != "":
		u.o.Board.Set(boardLine, true, firstLine(l.err))
	case l.offer != nil:
		u.o.Board.Set(boardLine, true, fmt.Sprintf("%s is there: %s", l.offer.Version, firstLine(l.why)))
	default:
		u.o.Board.Set(boardLine, true, l.why)
	}
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return bounded(s, 300)
}

// baseline is what works now; an attempt goes on without one when it cannot be had.
func (u *Updater) baseline(ctx context.Context) json.RawMessage {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	b, err := u.o.Trial.Baseline(ctx)
	if err == nil && len(b) > maxBaseline {
		err = fmt.Errorf("it has %d bytes", len(b))
	}
	if err != nil {
		u.o.Log.Warn("updates: what works now could not be recorded, the trial will not compare with it", "error", err)
		return nil
	}
	return b
}
