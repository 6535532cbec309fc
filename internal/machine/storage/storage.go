// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package storage gives the machine its one state file system.
//
// It owns the mount at /state and the place below it: an XFS file system
// labelled "wherry-state" on a partition of its own. At boot it looks at all
// disks (observe.go), decides (plan.go), and acts (apply.go, format.go): state
// that exists is mounted; without any, an empty partition that is meant for the
// state is formatted, or one made in the room behind the boot partition of a
// disk of Wherry's, or the first disk with nothing at all on it; else
// /state is in memory and the machine says so. A disk with data on it is never
// touched, and no disk at all by a machine that was started from a live medium
// (live.go).
//
// Failures: state that is there and can't be mounted is left as it is, and the
// machine runs from memory with a message that says why. A formatting that a
// power cut ended is recognised by its claim (observe.go) and done again. A file
// system that could not be grown is used as it is. A file system that is full is
// reported (space.go); the machine's own records have space set aside.
//
// Unmounting is PID 1's, after everything has stopped.
package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/linux/block"
	"wherry.example/wherry/internal/linux/efivar"
	"wherry.example/wherry/internal/machine/status"
)

// Label of the file system and name of the partition.
const Label = "wherry-state"

// TypeGUID is the partition type of Wherry's state.
var TypeGUID = gpt.MustGUID("57A9C3E1-7D0B-4C8E-9F35-2B6D4E8A1C70")

// subsystem is storage's name on the board.
const subsystem = "storage"

// How long disks are waited for. Loading drivers takes as long as it takes on
// a busy machine: giving up early would mean a machine without its memory.
const (
	driverLimit  = time.Minute      // for Settled
	pendingLimit = 3 * time.Second  // then, for a controller to show its first disk
	mediumLimit  = 15 * time.Second // or for the disk that the machine was started from: sticks are slow
)

// Options of Open.
type Options struct {
	// Dir is where the state is mounted; empty: /state.
	Dir string
	// Settled is closed when the drivers of the devices that the machine was
	// started with are loaded. Nil: they are.
	Settled <-chan struct{}
	// Load loads kernel modules: the driver of CDs, which nobody else needs.
	Load  func(modules ...string) error
	Board *status.Board
	Log   *slog.Logger
}

// Storage is the mounted state.
type Storage struct {
	options    Options
	observer   observer
	origin     origin
	medium     string // the live medium that the machine was started from; empty: it was not
	persistent bool
	place      place
}

// Open finds or makes the state and mounts it. An error means that there is no
// state at all, not even in memory.
func Open(ctx context.Context, o Options) (*Storage, error) {
	if o.Dir == "" {
		o.Dir = "/state"
	}
	s := &Storage{options: o}
	if mounted, err := isMount(o.Dir); err != nil {
		return nil, err
	} else if mounted {
		return s, s.adopt(ctx)
	}
	if s.origin = observeOrigin(efivar.Variables{}); s.origin.needsDrive() && o.Load != nil {
		if err := o.Load("sr_mod"); err != nil {
			o.Log.Warn("the machine cannot see whether it was started from a CD", "error", err)
		}
	}
	p, err := s.settle(ctx)
	if err != nil {
		return nil, err
	}
	for _, w := range p.Warnings {
		o.Log.Warn(w)
	}
	o.Log.Info("storage decided", "action", p.Action.String(), "place", p.Place.Name, "why", p.Why)
	err = s.apply(p)
	if err == nil && p.Damaged {
		err = errors.New(p.Why)
	}
	return s, s.finish(ctx, p, err)
}

// settle looks until the state is found or nothing more will come.
func (s *Storage) settle(ctx context.Context) (plan, error) {
	began := time.Now()
	var settledAt time.Time
	for {
		if settledAt.IsZero() && s.settled() {
			settledAt = time.Now()
		}
		places, err := s.observer.look()
		if err != nil {
			return plan{}, err
		}
		medium, sure := s.origin.live(places, drives())
		if medium != "" {
			s.medium = medium
			return plan{Why: "it was started from the live medium " + medium}, nil
		}
		p := decide(places)
		if sure && p.Action == useState || s.patient(began, settledAt, sure) {
			return p, nil
		}
		select {
		case <-ctx.Done():
			return plan{}, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// patient tells that it was waited long enough for disks, and for the one that
// the machine was started from where that is known but not seen.
func (s *Storage) patient(began, settledAt time.Time, sure bool) bool {
	if settledAt.IsZero() {
		return time.Since(began) > driverLimit
	}
	limit := pendingLimit
	if !sure && !s.origin.needsDrive() {
		limit = mediumLimit
	}
	return time.Since(settledAt) > limit || sure && !s.observer.lister.Pending()
}

func (s *Storage) settled() bool {
	if s.options.Settled == nil {
		return true
	}
	select {
	case <-s.options.Settled:
		return true
	default:
		return false
	}
}

// apply makes and mounts what was decided. After an error nothing is mounted.
func (s *Storage) apply(p plan) error {
	target := p.Place
	switch p.Action {
	case useMemory:
		return nil
	case format:
		began := time.Now()
		made, err := s.formatPlace(target)
		if err != nil {
			return fmt.Errorf("format %s for the state: %w", p.Place.Name, err)
		}
		target = made
		s.options.Log.Info("formatted for the state", "place", target.Name, "took", time.Since(began))
	case useState:
		grown, err := s.growPartition(target)
		if err != nil {
			s.options.Log.Warn("the state partition was not grown", "place", target.Name, "error", err)
		}
		target = grown
	}
	if err := mountState(target, s.options.Dir); err != nil {
		return err
	}
	if err := growFileSystem(s.options.Dir, target.Bytes); err != nil {
		s.options.Log.Warn("the state file system was not grown", "place", target.Name, "error", err)
	}
	s.place, s.persistent = target, true
	return nil
}

// finish falls back to memory where nothing was mounted, and reports.
func (s *Storage) finish(ctx context.Context, p plan, applied error) error {
	if s.persistent {
		s.report(true, fmt.Sprintf("state on %s", s.place.Name))
		s.watchSpace(ctx)
		return nil
	}
	if err := mountMemory(s.options.Dir); err != nil {
		return errors.Join(applied, err)
	}
	if applied != nil {
		s.options.Log.Error("the state cannot be used: the machine runs from memory", "error", applied)
		s.report(false, fmt.Sprintf("%v; the machine runs from memory and forgets everything when it is switched off", applied))
		return nil
	}
	s.report(true, fmt.Sprintf("the machine runs from memory and forgets everything when it is switched off: %s", p.Why))
	return nil
}

func (s *Storage) report(ready bool, message string) {
	if s.options.Board != nil {
		s.options.Board.Set(subsystem, ready, message)
	}
}

// adopt takes over the mount of a wherryd that died.
func (s *Storage) adopt(ctx context.Context) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(s.options.Dir, &fs); err != nil {
		return fmt.Errorf("look at %s: %w", s.options.Dir, err)
	}
	if fs.Type != unix.XFS_SUPER_MAGIC {
		s.report(true, "the machine runs from memory and forgets everything when it is switched off")
		s.origin = observeOrigin(efivar.Variables{})
		places, err := s.observer.look()
		if err != nil {
			return err
		}
		s.medium, _ = s.origin.live(places, drives())
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(s.options.Dir, &st); err != nil {
		return fmt.Errorf("look at %s: %w", s.options.Dir, err)
	}
	s.persistent = true
	disks, err := s.observer.lister.List()
	if err != nil {
		return err
	}
	if p, ok := findDevice(disks, st.Dev); ok {
		s.place = p
	}
	s.report(true, fmt.Sprintf("state on %s", s.place.Name))
	s.watchSpace(ctx)
	return nil
}

// findDevice finds the disk or partition with a device number.
func findDevice(disks []block.Disk, number uint64) (place, bool) {
	matches := func(path string) bool {
		var st unix.Stat_t
		return unix.Stat(path, &st) == nil && st.Rdev == number
	}
	for _, d := range disks {
		if matches(d.Path) {
			return place{Disk: d.Name, Name: d.Name, Path: d.Path, Bytes: d.Bytes}, true
		}
		for _, p := range d.Partitions {
			if matches(p.Path) {
				return place{Disk: d.Name, Name: p.Name, Path: p.Path, Partition: p.Number, Bytes: p.Bytes}, true
			}
		}
	}
	return place{}, false
}

// isMount tells whether something is mounted on dir: it then has another
// device than its parent.
func isMount(dir string) (bool, error) {
	var here, above unix.Stat_t
	if err := unix.Stat(dir, &here); errors.Is(err, os.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("look at %s: %w", dir, err)
	}
	if err := unix.Stat(dir+"/..", &above); err != nil {
		return false, fmt.Errorf("look at %s: %w", dir, err)
	}
	return here.Dev != above.Dev, nil
}

// Dir is where the state is.
func (s *Storage) Dir() string { return s.options.Dir }

// Disk is the name of the disk that the state is on; empty: it is in memory.
func (s *Storage) Disk() string { return s.place.Disk }

// Persistent tells whether the state outlives a power-off.
func (s *Storage) Persistent() bool { return s.persistent }

// Medium is the live medium that the machine was started from (sr0, sda), which
// it then left all disks alone for; empty: it was started otherwise.
func (s *Storage) Medium() string { return s.medium }

// State tells the API about the state file system.
func (s *Storage) State() *wherryv1.StateInfo {
	info := &wherryv1.StateInfo{Persistent: s.persistent, Filesystem: "tmpfs"}
	if s.persistent {
		info.Device, info.Filesystem = s.place.Name, "xfs"
	}
	var fs unix.Statfs_t
	if unix.Statfs(s.options.Dir, &fs) == nil {
		info.TotalBytes = fs.Blocks * uint64(fs.Bsize)
		info.FreeBytes = fs.Bavail * uint64(fs.Bsize)
	}
	return info
}

// Disks tells the API about all disks. What is on them is looked at anew each
// time but on the one that holds the state.
func (s *Storage) Disks() ([]*wherryv1.Disk, error) {
	disks, err := s.observer.lister.List()
	if err != nil {
		return nil, err
	}
	var out []*wherryv1.Disk
	for _, d := range disks {
		info := &wherryv1.Disk{Name: d.Name, Bytes: uint64(d.Bytes), HoldsState: s.persistent && d.Name == s.place.Disk}
		switch {
		case info.HoldsState && s.place.Partition != 0:
			info.Content = "gpt"
		case info.HoldsState:
			info.Content = "xfs"
		default:
			info.Content = contentName(d)
		}
		out = append(out, info)
	}
	return out, nil
}

func contentName(d block.Disk) string {
	device, err := block.OpenReading(d.Path)
	if err != nil {
		return "unreadable"
	}
	defer device.Close()
	content, err := block.Probe(device, d.Bytes)
	if err != nil {
		return "unreadable"
	}
	return content.Name
}

func (a action) String() string {
	return [...]string{"use memory", "use state", "format"}[a]
}
