// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/linux/cgroup"
	"wherry.example/wherry/internal/linux/loop"
	"wherry.example/wherry/internal/linux/module"
	"wherry.example/wherry/internal/linux/mount"
	"wherry.example/wherry/internal/linux/power"
)

// setting writes a kernel setting.
type setting struct{ file, value string }

func (s setting) String() string { return "set " + s.file + " to " + strings.TrimSpace(s.value) }
func (s setting) Do() error      { return os.WriteFile(s.file, []byte(s.value), 0) }

// directory makes a directory.
type directory struct {
	path string
	mode os.FileMode
}

func (d directory) String() string { return "make " + d.path }
func (d directory) Do() error {
	if err := os.Mkdir(d.path, d.mode); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// remove removes trees of the initramfs.
type remove []string

func (r remove) String() string { return "remove " + strings.Join(r, " ") }
func (r remove) Do() error {
	for _, path := range r {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// earlyModules loads what reading the root image needs.
type earlyModules struct {
	dir   string
	names []string
}

func (e earlyModules) String() string { return "load " + strings.Join(e.names, " ") + " from " + e.dir }
func (e earlyModules) Do() error {
	l, err := module.Open(e.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil // a kernel that has them built in comes without an index
	}
	if err != nil {
		return err
	}
	return l.Load(e.names...)
}

// image mounts a file read-only. It is not the mount that says what is wrong
// with a damaged image, but it is the first to see it.
type image struct{ file, target, fsType string }

func (i image) String() string { return "mount " + i.file + " on " + i.target }
func (i image) Do() error {
	dev, err := loop.Attach(i.file)
	if err != nil {
		return err
	}
	defer dev.Close()
	m := mount.Mount{Source: dev.Name(), Target: i.target, Type: i.fsType, Flags: unix.MS_RDONLY | noDev, Mode: 0o755}
	return m.Do()
}

// switchRoot makes a mounted tree the root. The tree is moved over the
// initramfs, not pivoted to: an initramfs can't be unmounted. What runs later
// can pivot_root again, since its root is then a mount below another.
type switchRoot struct{ root string }

func (s switchRoot) String() string { return "switch to " + s.root }
func (s switchRoot) Do() error {
	if err := unix.Chdir(s.root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// become executes a program in place of this one.
type become struct{ program string }

func (b become) String() string { return "become " + b.program }
func (b become) Do() error {
	return fmt.Errorf("execute %s: %w", b.program, unix.Exec(b.program, []string{b.program}, os.Environ()))
}

// inRoot says whether the root is the image already, and not the initramfs.
func inRoot() bool {
	var st unix.Statfs_t
	return unix.Statfs("/", &st) == nil && st.Type == unix.SQUASHFS_MAGIC
}

// delegate hands a control group's controllers to the groups below it.
type delegate struct{ group cgroup.Group }

func (d delegate) String() string { return "delegate all controllers of " + string(d.group) }
func (d delegate) Do() error      { return d.group.Delegate() }

// group makes a control group, and puts a process in it.
type group struct {
	name      cgroup.Group
	memoryMin string
	pid       int
}

func (g group) String() string { return "control group " + string(g.name) }
func (g group) Do() error {
	if err := g.name.Make(); err != nil {
		return err
	}
	var errs []error
	if g.memoryMin != "" {
		errs = append(errs, g.name.Set("memory.min", g.memoryMin))
	}
	if g.pid != 0 {
		errs = append(errs, g.name.Enter(g.pid))
	}
	return errors.Join(errs...)
}

// score sets how willingly the OOM killer takes a process.
type score struct{ pid, value int }

func (s score) String() string { return "OOM score " + strconv.Itoa(s.value) }
func (s score) Do() error      { return protect(s.pid, s.value) }

// ctrlAltDel makes the three keys a signal.
type ctrlAltDel struct{}

func (ctrlAltDel) String() string { return "take over ctrl-alt-delete" }
func (ctrlAltDel) Do() error      { return power.CtrlAltDelSignals() }
