// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

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

// stickTypes are the file systems that sticks come with, and the kernel's modules for them.
var stickTypes = []struct {
	name    string
	modules []string
}{
	{"vfat", []string{"vfat", "nls_cp437", "nls_ascii"}},
	{"exfat", []string{"exfat"}},
	{"ext4", nil},
}

// Sticks looks for bundles on removable disks, which it mounts read-only at dir while it does.
type Sticks struct {
	Dir  string
	Load func(modules ...string) error
}

// Look calls use with each *.wherry file in the topmost folder of a removable disk's partitions.
func (s Sticks) Look(ctx context.Context, use func(file string)) error {
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
		err = errors.Join(err, s.place(p, use))
	}
	return err
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
	if !s.mount(device) {
		return nil // it holds nothing that can be read: none of our business
	}
	defer mount.Undo(s.Dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	files, err := bundlesIn(s.Dir)
	for _, f := range files {
		use(f)
	}
	return err
}

func (s Sticks) mount(device string) bool {
	for _, t := range stickTypes {
		if len(t.modules) > 0 && s.Load(t.modules...) != nil {
			continue
		}
		m := mount.Mount{Source: device, Target: s.Dir, Type: t.name, Flags: unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC}
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
	if err != nil && len(entries) == 0 {
		return nil, nil
	}
	var out []string
	for _, e := range entries {
		if strings.HasSuffix(strings.ToLower(e.Name()), ".wherry") && !strings.HasPrefix(e.Name(), ".") && e.Type().IsRegular() {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(out)
	return out[:min(len(out), maxStickFiles)], nil
}

// fromSticks takes what somebody carried here, if the machine takes updates by itself.
func (u *Updater) fromSticks(ctx context.Context) {
	u.mu.Lock()
	automatic := u.settings.Mode == config.UpdatesAutomatic && !u.record.Paused.holds(u.o.Now())
	u.mu.Unlock()
	if u.o.Sticks == nil || !automatic || u.current().under() {
		return
	}
	u.warn("", u.o.Sticks(ctx, func(file string) {
		name := filepath.Base(file)
		j, err := u.begin(Stick, "USB stick", nil)
		if err == nil {
			err = u.bundle(u.alive, j, file, Request{})
			j.end()
		}
		if err != nil {
			u.o.Log.Info("update: a bundle on a USB stick", "file", name, "error", err)
			u.o.Console("update", firstLine(fmt.Sprintf("%s on the USB stick: %v", bounded(name, 60), err)))
		}
	}))
}
