// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package loop turns a file into a block device, changes the file below a
// device that is in use, and tells which files a device is made of.
package loop

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// attempts bounds how often another process may take the free device first.
const attempts = 16

// AttachUncached binds an open file, whose content is not to be kept in memory
// twice, to a free loop device, read-only, and returns the device open: with
// blocks of that size, it reads the disk itself. The binding ends by itself when
// the last user is gone: keep the device open until it is mounted, then close it.
func AttachUncached(backing *os.File, blockBytes int) (*os.File, error) {
	flags := uint32(unix.LO_FLAGS_DIRECT_IO | unix.LO_FLAGS_READ_ONLY)
	return bind(backing, os.O_RDONLY, unix.LoopConfig{Size: uint32(blockBytes), Info: unix.LoopInfo64{Flags: flags}})
}

// AttachPart makes a range of an open file or disk a device of its own, to be
// written too, with blocks of that size.
func AttachPart(backing *os.File, offset, length int64, blockBytes int) (*os.File, error) {
	return bind(backing, os.O_RDWR, unix.LoopConfig{Size: uint32(blockBytes), Info: unix.LoopInfo64{Offset: uint64(offset), Sizelimit: uint64(length)}})
}

func bind(backing *os.File, mode int, cfg unix.LoopConfig) (*os.File, error) {
	cfg.Fd = uint32(backing.Fd())
	cfg.Info.Flags |= unix.LO_FLAGS_AUTOCLEAR
	copy(cfg.Info.File_name[:len(cfg.Info.File_name)-1], backing.Name())
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("attach loop device (is the module loop loaded?): %w", err)
	}
	defer control.Close()
	for range attempts {
		dev, err := attachFree(control, mode, &cfg)
		if err == nil {
			return dev, nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("attach %s to a loop device: %w", backing.Name(), err)
		}
	}
	return nil, fmt.Errorf("attach %s to a loop device: every free one was taken first", backing.Name())
}

func attachFree(control *os.File, mode int, cfg *unix.LoopConfig) (*os.File, error) {
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("find a free one: %w", err)
	}
	dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), mode, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.IoctlLoopConfigure(int(dev.Fd()), cfg); err != nil {
		dev.Close()
		return nil, err
	}
	return dev, nil
}

// changeFD is LOOP_CHANGE_FD of linux/loop.h, which package unix lacks.
const changeFD = 0x4c06

// Change puts another file or block device of the same size below a read-only
// loop device, also while it is mounted. Whatever reads from then on reads from there.
func Change(device string, backing *os.File) error {
	dev, err := os.Open(device)
	if err != nil {
		return fmt.Errorf("change what is below %s: %w", device, err)
	}
	defer dev.Close()
	if err := unix.IoctlSetInt(int(dev.Fd()), changeFD, int(backing.Fd())); err != nil {
		return fmt.Errorf("change what is below %s to %s: %w", device, backing.Name(), err)
	}
	return nil
}
