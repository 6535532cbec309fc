// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/linux/block"
	"wherry.example/wherry/internal/linux/mount"
)

// Bounds of what is looked at on removable disks.
const (
	maxStickParts = 16
	maxStickNames = 4096
	maxStickFiles = 8
)

// A stick shows its disk a second or two after the machine found that something
// is plugged in, and hubs take their time before that.
const (
	stickPoll = 200 * time.Millisecond
	stickMin  = 4 * time.Second
	stickMax  = 15 * time.Second
)

// stickTypes are the file systems that sticks come with, and the kernel's modules for them.
var stickTypes = []struct {
	name    string
	modules []string
	options string
}{
	{"vfat", []string{"vfat", "nls_cp437", "nls_ascii"}, ""},
	{"exfat", []string{"exfat"}, ""},
	{"ext4", nil, "noload"}, // its journal is not played back: nothing is written to a stick
}

// Sticks looks for bundles on removable disks, which it mounts read-only at dir while it does.
type Sticks struct {
	Dir  string
	Load func(modules ...string) error
	Sys  string // instead of /sys
}

// Look calls use with each *.wherry file in the topmost folder of a removable disk's partitions, and
// wrong for each place that could not be looked at as it should be; it goes on with the next.
func (s Sticks) Look(ctx context.Context, use func(file string), wrong func(error)) error {
	s.await(ctx)
	disks, err := block.Lister{}.List()
	if err != nil {
		return fmt.Errorf("look for USB sticks: %w", err)
	}
	places := removable(disks)
	if len(places) == 0 {
		return nil
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return fmt.Errorf("look for USB sticks: %w", err)
	}
	for _, p := range places {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := s.place(p, use); err != nil {
			wrong(fmt.Errorf("the USB stick %s: %w", filepath.Base(p), err))
		}
	}
	return nil
}

// await waits until what is plugged in has shown its disk.
func (s Sticks) await(ctx context.Context) {
	usb := filepath.Join(cmp.Or(s.Sys, "/sys"), "bus", "usb", "devices")
	if any, err := filepath.Glob(filepath.Join(usb, "*")); err != nil || len(any) == 0 {
		return // there is no USB
	}
	for began := time.Now(); ctx.Err() == nil; time.Sleep(stickPoll) {
		if past := time.Since(began); past >= stickMax || past >= stickMin && !coming(usb) {
			return
		}
	}
}

// coming tells whether there is a disk on USB (interfaces of class 8) that is not to be seen yet.
func coming(usb string) bool {
	classes, _ := filepath.Glob(filepath.Join(usb, "*", "bInterfaceClass"))
	for _, file := range classes {
		if class, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(class)) != "08" {
			continue
		}
		if disks, err := filepath.Glob(filepath.Join(filepath.Dir(file), "host*", "target*", "*", "block", "*")); err != nil || len(disks) == 0 {
			return true
		}
	}
	return false
}

// removable are the partitions of sticks; the whole stick where it has none.
func removable(disks []block.Disk) (paths []string) {
	for _, d := range disks {
		if !d.Removable {
			continue
		}
		for _, p := range d.Partitions {
			paths = append(paths, p.Path)
		}
		if len(d.Partitions) == 0 {
			paths = append(paths, d.Path)
		}
	}
	return paths[:min(len(paths), maxStickParts)]
}

func (s Sticks) place(device string, use func(file string)) error {
	holds, err := content(device)
	if err != nil || holds == "empty" {
		return err
	}
	if !s.mount(device) {
		return fmt.Errorf("it holds %s that cannot be read: bundles are looked for on FAT, exFAT and ext4", holds)
	}
	defer mount.Undo(s.Dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	files, err := bundlesIn(s.Dir)
	for _, f := range files {
		use(f)
	}
	return err
}

// content is what a disk or partition holds, as package block names it.
func content(device string) (string, error) {
	d, err := block.OpenReading(device)
	if err != nil {
		return "", err
	}
	var c block.Content
	size, err := d.Size()
	if err == nil {
		c, err = block.Probe(d, size)
	}
	return c.Name, errors.Join(err, d.Close())
}

func (s Sticks) mount(device string) bool {
	for _, t := range stickTypes {
		if len(t.modules) > 0 && s.Load(t.modules...) != nil {
			continue
		}
		m := mount.Mount{Source: device, Target: s.Dir, Type: t.name, Flags: unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, Data: t.options}
		if m.Do() == nil {
			return true
		}
	}
	return false
}

// bundlesIn are the plain files named *.wherry, by name.
func bundlesIn(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(maxStickNames)
	if err != nil && len(entries) == 0 && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read its topmost folder: %w", err)
	}
	var out []string
	for _, e := range entries {
		if strings.HasSuffix(strings.ToLower(e.Name()), ".wherry") && !strings.HasPrefix(e.Name(), ".") && e.Type().IsRegular() {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(out)
	switch {
	case len(entries) == maxStickNames:
		err = fmt.Errorf("it has %d files or more: only the first are looked at", maxStickNames)
	case len(out) > maxStickFiles:
		err = fmt.Errorf("it has %d bundles: the first %d by name are looked at", len(out), maxStickFiles)
	default:
		err = nil
	}
	return out[:min(len(out), maxStickFiles)], err
}

// fromSticks takes what somebody carried here, if the machine takes updates by itself.
func (u *Updater) fromSticks(ctx context.Context) {
	u.mu.Lock()
	automatic := u.settings.Mode == config.UpdatesAutomatic && !u.record.Paused.holds(u.o.Now())
	u.mu.Unlock()
	if u.o.Sticks == nil || !automatic || u.current().under() {
		return
	}
	use := func(file string) {
		name := filepath.Base(file)
		j, err := u.begin(Stick, Request{By: "USB stick"}, nil)
		if err == nil {
			err = j.end(u.bundle(u.alive, j, file, Request{}))
		}
		if err != nil {
			u.o.Log.Info("update: a bundle on a USB stick", "file", name, "error", err)
			u.o.Console("update", firstLine(fmt.Sprintf("%s on the USB stick: %v", bounded(name, 60), err)))
		}
	}
	u.warn("", u.o.Sticks(ctx, use, func(err error) { u.warn("", err) })) // the console shows warnings
}
