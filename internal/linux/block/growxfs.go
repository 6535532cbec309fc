// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package block

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	xfsGeometry = 0x80705864 // XFS_IOC_FSGEOMETRY_V1
	xfsGrowData = 0x4010586e // XFS_IOC_FSGROWFSDATA
	// xfsInodePercent is how much of the file system may become inodes, mkfs's default.
	xfsInodePercent = 25
)

// geometry is struct xfs_fsop_geom_v1.
type geometry struct {
	_          [8]uint32
	dataBlocks uint64
	_          [72]byte
}

// XFSBlocks returns how many blocks the XFS mounted at dir has.
func XFSBlocks(dir string) (uint64, error) {
	var g geometry
	if err := ioctlDir(dir, xfsGeometry, unsafe.Pointer(&g)); err != nil {
		return 0, fmt.Errorf("size of the file system at %s: %w", dir, err)
	}
	return g.dataBlocks, nil
}

// GrowXFS extends the XFS mounted at dir to that many blocks.
func GrowXFS(dir string, blocks uint64) error {
	arg := struct { // struct xfs_growfs_data
		blocks       uint64
		inodePercent uint32
		_            uint32
	}{blocks: blocks, inodePercent: xfsInodePercent}
	if err := ioctlDir(dir, xfsGrowData, unsafe.Pointer(&arg)); err != nil {
		return fmt.Errorf("grow the file system at %s to %d blocks: %w", dir, blocks, err)
	}
	return nil
}

func ioctlDir(dir string, request uintptr, arg unsafe.Pointer) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
