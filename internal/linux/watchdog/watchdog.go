// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package watchdog drives the kernel's watchdogs: timers, in hardware or in
// the kernel itself, that reset the machine unless somebody resets them first.
// Opening one starts it. One whose opener dies goes on counting; only Disarm stops it.
package watchdog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Dog is a watchdog that counts.
type Dog struct {
	Name     string // watchdog0
	Identity string // of its driver, for people
	// Timeout is what it really has; hardware may not know every length.
	Timeout time.Duration
	file    *os.File
}

// The numbers of linux/watchdog.h.
const (
	getSupport = 0x80285700
	keepAlive  = 0x80045705
	setTimeout = 0xc0045706
	getTimeout = 0x80045707
	// stopLetter, written last, tells the driver that the closing is meant.
	stopLetter = "V"
)

// List returns the names of the watchdogs that the kernel knows.
func List(sys string) []string {
	dirs, _ := filepath.Glob(filepath.Join(sys, "class", "watchdog", "watchdog[0-9]*"))
	for i, dir := range dirs {
		dirs[i] = filepath.Base(dir)
	}
	return dirs
}

// Open starts a watchdog with about this timeout.
func Open(name string, timeout time.Duration) (*Dog, error) {
	f, err := os.OpenFile("/dev/"+name, os.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start watchdog: %w", err)
	}
	d := &Dog{Name: name, file: f, Timeout: timeout}
	d.Identity = d.identity()
	seconds := int32(timeout / time.Second)
	if err := d.ioctl(setTimeout, unsafe.Pointer(&seconds)); err != nil {
		// It has a timeout of its own, and counts already.
		if err := d.ioctl(getTimeout, unsafe.Pointer(&seconds)); err != nil {
			return nil, errors.Join(fmt.Errorf("ask watchdog %s its timeout: %w", name, err), d.Disarm())
		}
	}
	d.Timeout = time.Duration(seconds) * time.Second
	return d, d.Pet()
}

func (d *Dog) identity() string {
	var info struct { // struct watchdog_info
		options, version uint32
		identity         [32]byte
	}
	if d.ioctl(getSupport, unsafe.Pointer(&info)) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(info.identity[:])
}

// Pet starts the timer anew.
func (d *Dog) Pet() error {
	var none int32
	if err := d.ioctl(keepAlive, unsafe.Pointer(&none)); err != nil {
		return fmt.Errorf("reset the timer of watchdog %s: %w", d.Name, err)
	}
	return nil
}

// Disarm stops it, unless the kernel was built never to stop one.
func (d *Dog) Disarm() error {
	_, err := d.file.WriteString(stopLetter)
	if err := errors.Join(err, d.file.Close()); err != nil {
		return fmt.Errorf("stop watchdog %s: %w", d.Name, err)
	}
	return nil
}

func (d *Dog) ioctl(request uint, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.file.Fd(), uintptr(request), uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
