// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package quota limits and counts what directory trees use, by XFS project
// quota.
//
// A tree whose directories carry a project's number, inherited by all that is
// made below, is counted by the kernel as it changes: reading the sum is one
// call, and a write beyond the limit is ENOSPC. It takes a file system mounted
// with the option prjquota; on any other one the calls return ErrUnsupported.
package quota

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrUnsupported says that the file system counts no projects.
var ErrUnsupported = errors.New("the file system has no project quota")

// Usage is what a project uses and may use. A zero limit is none.
type Usage struct {
	Bytes, LimitBytes   uint64
	Inodes, LimitInodes uint64
}

// attributes is struct fsxattr.
type attributes struct {
	flags, extentBytes, extents, project, cowExtentBytes uint32
	_                                                    [8]byte
}

const (
	getAttributes   = 0x801c581f // FS_IOC_FSGETXATTR
	setAttributes   = 0x401c5820 // FS_IOC_FSSETXATTR
	inheritsProject = 0x200      // FS_XFLAG_PROJINHERIT
)

// SetProject gives an empty directory to a project; what is made in it later
// belongs to it too.
func SetProject(dir string, project uint32) error {
	return withDir(dir, func(fd int) error {
		var a attributes
		if err := ioctl(fd, getAttributes, &a); err != nil {
			return fmt.Errorf("project of %s: %w", dir, err)
		}
		a.project, a.flags = project, a.flags|inheritsProject
		if err := ioctl(fd, setAttributes, &a); err != nil {
			return fmt.Errorf("give %s to project %d: %w", dir, project, err)
		}
		return nil
	})
}

// Project returns the project that a directory belongs to, 0 for none.
func Project(dir string) (uint32, error) {
	var a attributes
	err := withDir(dir, func(fd int) error { return ioctl(fd, getAttributes, &a) })
	if err != nil {
		return 0, fmt.Errorf("project of %s: %w", dir, err)
	}
	return a.project, nil
}

// record is struct fs_disk_quota.
type record struct {
	version                              int8
	flags                                int8
	fields                               uint16
	id                                   uint32
	blockHard, blockSoft                 uint64 // in units
	inodeHard, inodeSoft                 uint64
	blocks, inodes                       uint64
	inodeTimer, blockTimer               int32
	inodeWarns, blockWarns               uint16
	timersHigh                           [4]int8
	realtimeHard, realtimeSoft, realtime uint64
	realtimeTimer                        int32
	realtimeWarns                        uint16
	_                                    int16
	_                                    [8]int8
}

const (
	unit           = 512
	recordVersion  = 1
	projectRecord  = 2      // FS_PROJ_QUOTA
	projectType    = 2      // PRJQUOTA
	commandGet     = 0x5803 // Q_XGETQUOTA
	commandSet     = 0x5804 // Q_XSETQLIM
	fieldBlockHard = 1 << 3
	fieldInodeHard = 1 << 1
)

// SetLimit limits a project of the file system that holds dir; 0 takes the limit away.
func SetLimit(dir string, project uint32, bytes uint64) error {
	r := record{
		version: recordVersion, flags: projectRecord, fields: fieldBlockHard,
		id: project, blockHard: (bytes + unit - 1) / unit,
	}
	if err := withDir(dir, func(fd int) error { return quotactl(fd, commandSet, project, &r) }); err != nil {
		return fmt.Errorf("limit project %d to %d bytes: %w", project, bytes, err)
	}
	return nil
}

// Get returns what a project of the file system that holds dir uses.
func Get(dir string, project uint32) (Usage, error) {
	var r record
	err := withDir(dir, func(fd int) error { return quotactl(fd, commandGet, project, &r) })
	// A project that never used anything has no record.
	if errors.Is(err, unix.ENOENT) {
		return Usage{}, nil
	}
	if err != nil {
		return Usage{}, fmt.Errorf("usage of project %d: %w", project, err)
	}
	return Usage{
		Bytes: r.blocks * unit, LimitBytes: r.blockHard * unit,
		Inodes: r.inodes, LimitInodes: r.inodeHard,
	}, nil
}

// Supported tells whether the file system that holds dir counts projects.
func Supported(dir string) bool {
	_, err := Get(dir, 0)
	return err == nil
}

func withDir(dir string, do func(fd int) error) error {
	// Without O_NOFOLLOW a link planted in a volume would lead elsewhere.
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	return do(fd)
}

func ioctl(fd int, request uintptr, a *attributes) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(a)))
	return translate(errno)
}

func quotactl(fd int, command uintptr, project uint32, r *record) error {
	_, _, errno := unix.Syscall6(unix.SYS_QUOTACTL_FD, uintptr(fd), command<<8|projectType, uintptr(project), uintptr(unsafe.Pointer(r)), 0, 0)
	return translate(errno)
}

// translate gives the many ways to say "not here" one name.
func translate(errno unix.Errno) error {
	switch errno {
	case 0:
		return nil
	case unix.ENOTTY, unix.EOPNOTSUPP, unix.ENOSYS, unix.ESRCH:
		return fmt.Errorf("%w (%w)", ErrUnsupported, errno)
	}
	return errno
}
