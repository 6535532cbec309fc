// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Hidden mounts a device at no place: its file system is reached through the
// open directory alone (/proc/self/fd/N), which no container can hold, and it is
// unmounted when that is closed, also by the end of the process. Options are of
// the form name=value or name.
func Hidden(device, kind string, readOnly bool, options ...[2]string) (*os.File, error) {
	for try := 0; ; try++ {
		f, err := hiddenOnce(device, kind, readOnly, options)
		// The mount before this one may be on its way out.
		if err == nil || !errors.Is(err, unix.EBUSY) || try == 50 {
			return f, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func hiddenOnce(device, kind string, readOnly bool, options [][2]string) (*os.File, error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("mount %s: file system %s: %w", device, kind, err)
	}
	defer unix.Close(fs)
	attributes := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	err = unix.FsconfigSetString(fs, "source", device)
	for _, o := range options {
		err = errors.Join(err, unix.FsconfigSetString(fs, o[0], o[1]))
	}
	if readOnly {
		attributes |= unix.MOUNT_ATTR_RDONLY
		err = errors.Join(err, unix.FsconfigSetFlag(fs, "ro"))
	}
	if err == nil {
		err = unix.FsconfigCreate(fs)
	}
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", device, err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", device, err)
	}
	return os.NewFile(uintptr(fd), fmt.Sprintf("/proc/self/fd/%d", fd)), nil
}
