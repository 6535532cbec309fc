// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package install puts the operating system that runs onto another disk of the
// machine, so that the machine starts from there.
//
// What is copied is what the machine itself was started from: the boot
// partition of its disk, or the live medium, a stick or CD (medium.go). From
// there come the OS file, which must be of the version and edition that run, the
// boot loader, and the keys for Secure Boot. The disk gets the layout of
// package disklayout, and a state with the files that the caller gives:
// configuration and key. It boots by itself; nothing is left to a first boot.
//
// A disk with anything on it is refused, unless the request names the disk and
// says that it may be wiped. Refused always are the disk that the machine was
// started from, the one with its state, and what is in use, read-only or too
// small (plan.go).
//
// The order of writing (write.go) makes a power cut at any time harmless:
//
//	mark in block 0 → old tables and signatures away → boot partition →
//	read back and compared → state → table's copy → table → block 0
//
// Up to the last write the disk is an unfinished one, which firmware does not
// boot, the machine does not take for its state, and Install takes again without
// being told to wipe. From then on it boots.
//
// One installation at a time. When it fails, the error says at which step, and
// the disk is an unfinished one. What fails after the last write (the
// firmware's boot entry) is a warning: firmware finds the disk without.
package install

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"wherry.example/wherry/internal/disklayout"
	"wherry.example/wherry/internal/format/efiload"
	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/linux/block"
	"wherry.example/wherry/internal/linux/efivar"
)

// StateMaker makes the file system that a machine keeps its state in.
type StateMaker interface {
	Partition(first, last uint64) gpt.Partition
	MinBytes() int64
	// Make returns when the file system, with what fill put into dir, is on the disk.
	Make(disk *block.Device, start, length int64, fill func(dir string) error) error
}

// Options of an installer.
type Options struct {
	Log *slog.Logger
	// Load loads kernel modules.
	Load func(modules ...string) error
	// Version and Edition are those that run.
	Version, Edition string
	// StateDisk is the name of the disk that holds this machine's state; empty: none does.
	StateDisk func() string
	State     StateMaker
	// StartFrom has the firmware start from a boot partition from now on.
	StartFrom func(efiload.Partition) error
}

// Installer installs. It is safe for concurrent use.
type Installer struct {
	Options
	lister    block.Lister
	variables efivar.Variables
	mu        sync.Mutex // held while a disk is written
}

// New makes an installer. It touches nothing.
func New(o Options) *Installer { return &Installer{Options: o} }

// Disk tells what is on a disk, and whether it can be installed onto.
type Disk struct {
	Name, Path    string
	Bytes         int64
	Model, Serial string
	Removable     bool
	ReadOnly      bool
	Content       string
	Partitions    []string
	// Usable as it is; NeedsWipe: usable when what is on it may be lost. Reason
	// is why it is not usable as it is.
	Usable, NeedsWipe bool
	Reason            string
	// Identity of its boot partition; empty: it has none of Wherry's.
	Identity string
}

// Disks looks at all disks.
func (i *Installer) Disks() ([]Disk, error) {
	booted, _ := bootedFrom(i.variables) // a machine without firmware was started from none
	all, err := i.observe(booted)
	if err != nil {
		return nil, fmt.Errorf("look at the disks: %w", err)
	}
	var out []Disk
	for _, d := range all {
		x := Disk{
			Name: d.Name, Path: d.Path, Bytes: d.Bytes, Model: d.Model, Serial: d.Serial, Removable: d.Removable, ReadOnly: d.ReadOnly,
			Content: d.Content, Partitions: d.Partitions, Identity: d.Identity, Reason: d.hopeless(),
		}
		if x.Reason == "" && d.holdsData() {
			x.NeedsWipe, x.Reason = true, "it holds data ("+d.describe()+")"
		}
		x.Usable = x.Reason == ""
		out = append(out, x)
	}
	return out, nil
}

// Request says what to install.
type Request struct {
	// Disk is a name (vda), a path, serial:…, first, smallest or largest.
	Disk string
	Wipe bool
	// Files of the new machine's state, by path. They hold secrets.
	Files map[string][]byte
	// Identity of the new boot partition; zero: a random one.
	Identity gpt.GUID
}

// Result is what was done.
type Result struct {
	Disk     string
	Warnings []string
}

// stepper is told what is being done, and how far it is in bytes.
type stepper func(step string, done, total int64)

// Install makes the disk. Once it writes, it goes on to the end.
func (i *Installer) Install(ctx context.Context, r Request, step func(step string, done, total int64)) (Result, error) {
	if !i.mu.TryLock() {
		return Result{}, Refused("the machine is installing onto a disk already")
	}
	defer i.mu.Unlock()
	step("reading the operating system", 0, 0)
	booted, err := bootedFrom(i.variables)
	if err != nil {
		return Result{}, refusef("%v", err)
	}
	boot, err := i.source(booted)
	if err != nil {
		return Result{}, fmt.Errorf("install: %w", err)
	}
	disks, err := i.observe(booted)
	if err != nil {
		return Result{}, fmt.Errorf("install: look at the disks: %w", err)
	}
	d, err := choose(disks, r.Disk, r.Wipe)
	if err != nil {
		return Result{}, err
	}
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	i.Log.Info("installing", "disk", d.Name, "content", d.describe(), "version", i.Version)
	began := time.Now()
	res, err := i.onto(d, boot, r, step)
	if err != nil {
		return res, fmt.Errorf("install onto %s: %w", d.Name, err)
	}
	i.Log.Info("installed", "disk", d.Name, "took", time.Since(began), "warnings", len(res.Warnings))
	return res, nil
}

func (i *Installer) source(booted gpt.GUID) (disklayout.Boot, error) {
	root, err := i.openMedium(booted)
	if err != nil {
		return disklayout.Boot{}, err
	}
	defer root.Close()
	return readMedium(root.Name(), i.Version, i.Edition)
}

// onto writes the disk.
func (i *Installer) onto(d disk, boot disklayout.Boot, r Request, step stepper) (Result, error) {
	res := Result{Disk: d.Name}
	if r.Identity.IsZero() {
		r.Identity = gpt.RandomGUID(random())
	}
	l, err := newLayout(d.Bytes, boot, r.Identity, i.State, time.Now())
	if err != nil {
		return res, err
	}
	device, err := block.OpenExclusive(d.Path)
	if err != nil {
		return res, err
	}
	defer device.Close()
	step("clearing the disk", 0, 0)
	for _, s := range []struct {
		what string
		do   func() error
	}{
		{"clear the disk", func() error { return l.clear(device) }},
		{"forget its old partitions", device.RereadPartitions},
		{"write the boot partition", func() error { return l.writeBoot(device, step) }},
		{"check what was written", func() error { return l.check(device, step) }},
		{"make the state", func() error {
			step("making the state", 0, 0)
			return i.State.Make(device, l.stateStart, l.stateBytes, fill(r.Files))
		}},
		{"write the partition table", func() error { return l.finish(device) }},
	} {
		if err := s.do(); err != nil {
			return res, fmt.Errorf("%s: %w", s.what, err)
		}
	}
	for _, err := range []error{device.RereadPartitions(), i.StartFrom(l.place())} {
		if err != nil {
			i.Log.Warn("installed", "disk", d.Name, "error", err)
			res.Warnings = append(res.Warnings, err.Error())
		}
	}
	return res, nil
}

// fill writes files below a directory, for root alone.
func fill(files map[string][]byte) func(dir string) error {
	return func(dir string) error {
		for name, data := range files {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				return err
			}
			if err := os.WriteFile(path, data, 0o600); err != nil {
				return err
			}
		}
		return nil
	}
}
