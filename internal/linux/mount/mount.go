// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package mount makes, lists and undoes mounts. A Mount is a value that prints
// itself, so that a boot's table of mounts is also its documentation.
package mount

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is one mount as mount(2) takes it, and what must be there for it.
type Mount struct {
	Source string
	Target string
	Type   string
	Flags  uintptr
	Data   string
	// Dir is made below the file system's root if it does not exist, with this mode; zero: the target must exist.
	Mode os.FileMode
	// Needs is a path without which the mount is left out.
	Needs string
	// Optional mounts may fail: the kernel may have been built without them.
	Optional bool
}

// String is the mount in the form of fstab.
func (m Mount) String() string {
	opts := append(flagNames(m.Flags), m.Data)
	if m.Data == "" {
		opts = opts[:len(opts)-1]
	}
	if len(opts) == 0 {
		opts = []string{"defaults"}
	}
	return fmt.Sprintf("%s %s %s %s", orDash(m.Source), m.Target, orDash(m.Type), strings.Join(opts, ","))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

var names = []struct {
	flag uintptr
	name string
}{
	{unix.MS_RDONLY, "ro"}, {unix.MS_NOSUID, "nosuid"}, {unix.MS_NODEV, "nodev"}, {unix.MS_NOEXEC, "noexec"},
	{unix.MS_NOATIME, "noatime"}, {unix.MS_RELATIME, "relatime"}, {unix.MS_BIND, "bind"}, {unix.MS_REC, "rec"},
	{unix.MS_MOVE, "move"}, {unix.MS_REMOUNT, "remount"}, {unix.MS_PRIVATE, "private"}, {unix.MS_SHARED, "shared"},
}

func flagNames(flags uintptr) []string {
	var out []string
	for _, n := range names {
		if flags&n.flag != 0 {
			out = append(out, n.name)
		}
	}
	return out
}

// Do makes the mount. One that is already there (EBUSY with the same type and
// place, as devtmpfs on /dev) counts as made.
func (m Mount) Do() error {
	if m.Needs != "" {
		if _, err := os.Stat(m.Needs); err != nil {
			return nil
		}
	}
	if m.Mode != 0 {
		// Fails where the file system is read-only or made by the kernel; mount then says what is missing.
		os.Mkdir(m.Target, m.Mode)
	}
	err := unix.Mount(m.Source, m.Target, m.Type, m.Flags, m.Data)
	if err == nil || errors.Is(err, unix.EBUSY) || m.Optional {
		return nil
	}
	return fmt.Errorf("mount %s (%s): %w", m.Target, orDash(m.Type), err)
}

// Undo unmounts; flags are those of umount2(2).
func Undo(target string, flags int) error {
	if err := unix.Unmount(target, flags); err != nil {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}

// ReadOnly makes a mounted file system read-only, whoever still has it open for reading.
func ReadOnly(target string) error {
	if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("remount %s read-only: %w", target, err)
	}
	return nil
}
