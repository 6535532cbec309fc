// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package loop turns a file into a block device.
package loop

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// attempts bounds how often another process may take the free device first.
const attempts = 16

// Attach binds the file to a free loop device, read-only, and returns the
// device open. The binding ends by itself when the last user is gone: keep
// the device open until it is mounted, then close it.
func Attach(file string) (*os.File, error) {
	backing, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("attach loop device: %w", err)
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("attach loop device (is the module loop loaded?): %w", err)
	}
	defer control.Close()
	for range attempts {
		dev, err := attachFree(control, backing)
		if err == nil {
			return dev, nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("attach %s to a loop device: %w", file, err)
		}
	}
	return nil, fmt.Errorf("attach %s to a loop device: every free one was taken first", file)
}

func attachFree(control, backing *os.File) (*os.File, error) {
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("find a free one: %w", err)
	}
	dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	cfg := unix.LoopConfig{Fd: uint32(backing.Fd())}
	cfg.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
	copy(cfg.Info.File_name[:len(cfg.Info.File_name)-1], backing.Name())
	if err := unix.IoctlLoopConfigure(int(dev.Fd()), &cfg); err != nil {
		dev.Close()
		return nil, err
	}
	return dev, nil
}
