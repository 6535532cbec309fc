// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package bootslots keeps the OS files that the machine's firmware can start:
// it is the mechanism below updates and knows nothing of their policy.
//
// A slot is a file EFI/Linux/wherry_VERSION.efi of the boot partition
// (wherry-boot, on the disk that the machine was started from). Its name holds
// systemd-boot's counter while the version is on trial:
//
//	Stage ──► +3 ──start──► +2-1 ──start──► +1-2 ──start──► +0-3 (bad: never started by itself)
//	                          │ Bless                          ▲
//	                          ▼                                │
//	                       no counter ──────── Retire ─────────┘
//
// The newest file that is not bad is started; so an older one runs again once
// a trial has used up its tries. Files that do not load at all end in the
// firmware: four equal boot entries make it try again until the count is down.
//
// The boot partition is FAT and keeps nothing by itself: it is mounted only
// while it is read or written, every name is written before the old one is
// taken away, contents are read back from the disk before they get a name that
// the loader takes, and nothing is done until fsync of the file under its
// new name. The file that runs is never written to and never removed.
//
// Whatever a call does not bring to its end (power cut, full disk) leaves the
// slots as they were; what lies around of it is removed when the next process
// opens the slots, and clusters that belong to no file any more before the next file is written.
package bootslots

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"wherry.example/wherry/internal/linux/efivar"
)

// Slot is an OS file of the boot partition.
type Slot struct {
	Version string
	File    string // its name, with the counter
	Bytes   int64
	Running bool
	// Trial: its starts are counted; nobody has blessed it yet.
	Trial                bool
	TriesLeft, TriesDone int
	Bad                  bool // no tries are left
}

// Verified is what the firmware checked when it started the machine.
type Verified struct {
	Firmware   bool // it was UEFI firmware at all
	SecureBoot bool
	SetupMode  bool   // the firmware has no owner yet: whoever comes first sets the keys
	SignedBy   string // subject of the certificate that signed the OS file; empty: it is not signed
	// Fingerprint is the SHA-256 of that certificate, in hex.
	Fingerprint string
}

// Errors that callers tell from others.
var (
	// ErrUnsupported: this machine's OS file can't be replaced.
	ErrUnsupported = errors.New("the OS file of this machine can't be replaced")
	// ErrNoRoom: the boot partition is full. Nothing was changed.
	ErrNoRoom = errors.New("the boot partition has no room")
	// ErrNotFound: there is no slot of that version.
	ErrNotFound = errors.New("no such OS file on the boot partition")
	// ErrRefused: the firmware would not start the file.
	ErrRefused = errors.New("the firmware would not start this OS file")
)

// Options of the slots.
type Options struct {
	Log *slog.Logger
	// Load loads kernel modules.
	Load func(modules ...string) error
}

// Slots are the machine's. Its methods may be called at the same time; those
// that touch the boot partition wait for one another.
type Slots struct {
	log       *slog.Logger
	variables efivar.Variables
	find      func(id string) (partition, error)
	mount     func(partition, bool) (volume, error)
	reclaim   func(partition) (int64, error)

	mu     sync.Mutex // held while the boot partition is mounted
	booted *booted    // what the loader said at boot; nil: not read yet

	// What was found out stays true until this process changes it: nobody else
	// writes there while the machine is up. Who asks does not wait for a writer.
	known  atomic.Pointer[[]Slot]
	signed atomic.Pointer[Verified]
}

// Open prepares the slots. It touches neither firmware nor disk: a disk may
// appear later, and most boots need neither.
func Open(o Options) *Slots {
	load := o.Load
	if load == nil {
		load = func(...string) error { return nil }
	}
	return &Slots{
		log: o.Log, find: findPartition, reclaim: reclaimClusters,
		mount: func(p partition, write bool) (volume, error) { return mountESP(p, write, load) },
	}
}

// Supported tells why this machine can't replace its OS file; nil: it can.
func (s *Slots) Supported() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.partition()
	return err
}

// partition finds the boot partition. The caller holds mu.
func (s *Slots) partition() (partition, error) {
	b, err := s.atBoot()
	if err != nil {
		return partition{}, err
	}
	p, err := s.find(b.partition)
	if err != nil {
		return partition{}, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return p, nil
}

// with mounts the boot partition for the time of f. The caller holds mu. Each
// writer first removes what one before it left behind.
func (s *Slots) with(write bool, f func(volume) error) error {
	p, err := s.partition()
	if err != nil {
		return err
	}
	v, err := s.mount(p, write)
	if err != nil {
		return fmt.Errorf("mount the boot partition: %w", err)
	}
	if write {
		err = v.removeLeftovers()
	}
	if err == nil {
		err = f(v)
	}
	s.known.Store(nil)
	if all, dirty, errScan := s.scan(v); errScan == nil && !dirty {
		s.known.Store(&all)
	}
	return errors.Join(err, v.close())
}

// List returns the OS files, the newest first.
func (s *Slots) List() ([]Slot, error) {
	if all := s.known.Load(); all != nil {
		return slices.Clone(*all), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Slot
	var dirty bool
	err := s.with(false, func(v volume) (err error) {
		out, dirty, err = s.scan(v)
		return err
	})
	if err == nil && dirty {
		s.log.Info("removing what an interrupted update left on the boot partition")
		err = s.with(true, func(volume) error { return nil })
	}
	if errors.Is(err, ErrUnsupported) {
		return nil, err // it says all there is to say
	}
	if err != nil {
		return nil, fmt.Errorf("list the OS files: %w", err)
	}
	return out, nil
}

// scan reads the names.
func (s *Slots) scan(v volume) (slots []Slot, dirty bool, err error) {
	files, err := v.list()
	if err != nil {
		return nil, false, err
	}
	slots, dirty = slotsOf(files, s.booted.stem)
	return slots, dirty, nil
}

// Running returns the slot that the machine was started from.
func (s *Slots) Running() (Slot, error) {
	all, err := s.List()
	if err != nil {
		return Slot{}, err
	}
	for _, slot := range all {
		if slot.Running {
			return slot, nil
		}
	}
	return Slot{}, fmt.Errorf("%w: the one that runs is gone", ErrNotFound)
}

// Check compares an OS file with what it should be, reading it from the disk.
func (s *Slots) Check(ctx context.Context, version string, sha256 [32]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.with(false, func(v volume) error {
		slot, err := s.slot(v, version)
		if err != nil {
			return err
		}
		got, err := v.digest(ctx, slot.File)
		if err == nil && got != sha256 {
			err = errors.New("it is damaged")
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("check OS file %s: %w", version, err)
	}
	return nil
}

// Read calls use with an OS file, opened for reading. The boot partition is
// mounted only until use returns.
func (s *Slots) Read(version string, use func(*os.File) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.with(false, func(v volume) error {
		slot, err := s.slot(v, version)
		if err != nil {
			return err
		}
		f, err := os.Open(v.path(slot.File))
		if err != nil {
			return err
		}
		defer f.Close()
		return use(f)
	})
	if err != nil {
		return fmt.Errorf("read OS file %s: %w", version, err)
	}
	return nil
}

// slot finds a version.
func (s *Slots) slot(v volume, version string) (Slot, error) {
	all, _, err := s.scan(v)
	if err != nil {
		return Slot{}, err
	}
	return pick(all, version)
}

// Bless ends the running slot's trial: from now on it is started without being
// counted. It is refused when what runs is not what was on trial. Blessing
// twice is no error.
func (s *Slots) Bless() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.with(true, func(v volume) error {
		all, _, err := s.scan(v)
		if err != nil {
			return err
		}
		from, to, err := planBless(all, s.booted.trial)
		if err != nil || from == to {
			return err
		}
		return v.rename(from, to)
	})
	if err != nil {
		return fmt.Errorf("keep the running OS file: %w", err)
	}
	return nil
}

// Retire has a version never be started by itself again, the running one too:
// the next start is then another's. It is refused when there is no other.
func (s *Slots) Retire(version string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.with(true, func(v volume) error {
		all, _, err := s.scan(v)
		if err != nil {
			return err
		}
		from, to, err := planRetire(all, version)
		if err != nil {
			return err
		}
		if from != to {
			err = v.rename(from, to)
		}
		return errors.Join(err, s.forgetChoice())
	})
	if err != nil {
		return fmt.Errorf("retire OS file %s: %w", version, err)
	}
	return nil
}

// Remove deletes a version's file: never the running one, and not the one that
// the machine would go back to.
func (s *Slots) Remove(version string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.with(true, func(v volume) error {
		all, _, err := s.scan(v)
		if err != nil {
			return err
		}
		if err := mayRemove(all, version); err != nil {
			return err
		}
		return s.removeAll(v, version)
	})
	if err != nil {
		return fmt.Errorf("remove OS file %s: %w", version, err)
	}
	return nil
}

// removeAll removes all names of a version at once: after a power cut amid a
// rename two names may lead to the same contents, and freeing those of one
// takes them from the other.
func (s *Slots) removeAll(v volume, version string) error {
	files, err := v.list()
	if err != nil {
		return err
	}
	for _, f := range files {
		if got, _, ok := versionOf(f.name); ok && got == version {
			err = errors.Join(err, v.remove(f.name))
		}
	}
	return errors.Join(err, v.sync())
}
