// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package dm makes devices with the kernel's device mapper: read-only ones of
// one target, which is all that Wherry needs. A device has a name that is its
// own on the machine, and lives until it is removed, whoever made it.
package dm

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sectorBytes is the unit of the device mapper's tables.
const sectorBytes = 512

// Target is what a whole device is made of.
type Target struct {
	Type  string
	Bytes int64
	Args  string
}

// Verity is a target that checks every block it reads against a hash tree.
type Verity struct {
	// Device holds Blocks blocks of data, and the tree's blocks behind them.
	Device     string
	Blocks     int64
	BlockBytes int64
	Root, Salt []byte
	// Panic ends the machine's run when a block is not what it was; else reading it is an error.
	Panic bool
}

// Target is the form that the device mapper takes.
func (v Verity) Target() Target {
	size := strconv.FormatInt(v.BlockBytes, 10)
	count := strconv.FormatInt(v.Blocks, 10)
	salt := hex.EncodeToString(v.Salt)
	if salt == "" {
		salt = "-"
	}
	args := []string{"1", v.Device, v.Device, size, size, count, count, "sha256", hex.EncodeToString(v.Root), salt}
	if v.Panic {
		args = append(args, "1", "panic_on_corruption")
	}
	return Target{Type: "verity", Bytes: v.Blocks * v.BlockBytes, Args: strings.Join(args, " ")}
}

// Control is the open device mapper.
type Control struct{ *os.File }

// Open opens the device mapper; its module must be loaded.
func Open() (Control, error) {
	f, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return Control{}, fmt.Errorf("open the device mapper (is the module dm_mod loaded?): %w", err)
	}
	return Control{f}, nil
}

// Create makes a read-only device and returns its path. After an error there is none.
func (c Control) Create(name string, t Target) (path string, err error) {
	r := request(name, unix.DM_READONLY_FLAG)
	if err := c.call(unix.DM_DEV_CREATE, r); err != nil {
		return "", fmt.Errorf("create device %s: %w", name, err)
	}
	path = fmt.Sprintf("/dev/dm-%d", unix.Minor(r.header().Dev))
	if err := c.Replace(name, t); err != nil {
		return "", errors.Join(err, c.Remove(name))
	}
	return path, nil
}

// Replace gives a device another target, while it is in use if need be.
func (c Control) Replace(name string, t Target) error {
	if err := c.call(unix.DM_TABLE_LOAD, tableRequest(name, t)); err != nil {
		return fmt.Errorf("load the table of device %s (%s): %w", name, t.Type, err)
	}
	// Without its flag this call resumes, which puts the table in force.
	if err := c.call(unix.DM_DEV_SUSPEND, request(name, 0)); err != nil {
		return fmt.Errorf("resume device %s: %w", name, err)
	}
	return nil
}

// Remove removes a device that nobody uses. One that is not there is removed already.
func (c Control) Remove(name string) error {
	if err := c.call(unix.DM_DEV_REMOVE, request(name, 0)); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("remove device %s: %w", name, err)
	}
	return nil
}

// message is a struct dm_ioctl with what follows it.
type message []byte

func (m message) header() *unix.DmIoctl { return (*unix.DmIoctl)(unsafe.Pointer(&m[0])) }

func newMessage(name string, flags uint32, body int) message {
	m := message(make([]byte, unix.SizeofDmIoctl+body))
	h := m.header()
	h.Version = [3]uint32{unix.DM_VERSION_MAJOR, 0, 0}
	h.Data_size, h.Data_start, h.Flags = uint32(len(m)), unix.SizeofDmIoctl, flags
	copy(h.Name[:len(h.Name)-1], name)
	return m
}

func request(name string, flags uint32) message { return newMessage(name, flags, 0) }

func tableRequest(name string, t Target) message {
	const align = 8
	length := unix.SizeofDmTargetSpec + (len(t.Args)/align+1)*align
	m := newMessage(name, unix.DM_READONLY_FLAG, length)
	m.header().Target_count = 1
	spec := (*unix.DmTargetSpec)(unsafe.Pointer(&m[unix.SizeofDmIoctl]))
	spec.Length, spec.Next = uint64(t.Bytes/sectorBytes), uint32(length)
	copy(spec.Target_type[:len(spec.Target_type)-1], t.Type)
	copy(m[unix.SizeofDmIoctl+unix.SizeofDmTargetSpec:], t.Args)
	return m
}

func (c Control) call(number uintptr, m message) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, c.Fd(), number, uintptr(unsafe.Pointer(&m[0])))
	runtime.KeepAlive(m)
	if errno != 0 {
		return errno
	}
	return nil
}
