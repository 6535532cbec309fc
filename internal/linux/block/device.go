// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package block

import (
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Device is an open disk or partition. Opened for writing, it is the only such
// user: the kernel refuses one that is mounted.
type Device struct{ *os.File }

// OpenReading opens a disk or partition to be looked at.
func OpenReading(path string) (*Device, error) {
	return open(path, unix.O_RDONLY)
}

// OpenExclusive opens a disk or partition to be written. It is an error when
// it, or a partition of it, is in use.
func OpenExclusive(path string) (*Device, error) {
	return open(path, unix.O_RDWR|unix.O_EXCL)
}

func open(path string, flags int) (*Device, error) {
	f, err := os.OpenFile(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Mode()&os.ModeDevice == 0 || err == nil && info.Mode()&os.ModeCharDevice != 0 {
		err = fmt.Errorf("%s is no block device", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Device{f}, nil
}

// Size in bytes.
func (d *Device) Size() (int64, error) {
	var size uint64
	if err := d.ioctl(unix.BLKGETSIZE64, unsafe.Pointer(&size)); err != nil {
		return 0, fmt.Errorf("size of %s: %w", d.Name(), err)
	}
	return int64(size), nil
}

// ZeroOut makes a range read as zeros; where the disk can, without writing them.
func (d *Device) ZeroOut(offset, n int64) error {
	span := [2]uint64{uint64(offset), uint64(n)}
	if err := d.ioctl(unix.BLKZEROOUT, unsafe.Pointer(&span)); err != nil {
		return fmt.Errorf("zero %d bytes of %s at %d: %w", n, d.Name(), offset, err)
	}
	return nil
}

// RereadPartitions lets the kernel read the disk's partition table anew. Other
// programs that look at the disk for a moment make it busy: that is waited out.
func (d *Device) RereadPartitions() error {
	for try := 0; ; try++ {
		err := d.ioctl(unix.BLKRRPART, nil)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || try == 50 {
			return fmt.Errorf("read the partition table of %s: %w", d.Name(), err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// ResizePartition tells the kernel the new size of a partition, also of a mounted one.
func (d *Device) ResizePartition(p Partition) error {
	change := struct { // struct blkpg_partition
		start, length  int64
		number         int32
		device, volume [64]byte
		_              [4]byte
	}{start: p.Start, length: p.Bytes, number: int32(p.Number)}
	arg := struct { // struct blkpg_ioctl_arg
		op, flags, length int32
		_                 int32
		data              unsafe.Pointer
	}{op: unix.BLKPG_RESIZE_PARTITION, length: int32(unsafe.Sizeof(change)), data: unsafe.Pointer(&change)}
	if err := d.ioctl(unix.BLKPG, unsafe.Pointer(&arg)); err != nil {
		return fmt.Errorf("resize partition %s: %w", p.Name, err)
	}
	return nil
}

func (d *Device) ioctl(request uint, arg unsafe.Pointer) error {
	raw, err := d.SyscallConn()
	if err != nil {
		return err
	}
	var errno unix.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, uintptr(request), uintptr(arg))
	})
	if err != nil {
		return err
	}
	if errno != 0 {
		return errno
	}
	return nil
}
