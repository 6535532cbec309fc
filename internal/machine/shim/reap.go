// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// childInfo is siginfo_t as waitid fills it on 64-bit machines.
type childInfo struct {
	signo, errno, code, _ int32
	pid                   int32
	uid                   uint32
	status                int32
	_                     [100]byte
}

// What code says of status, from siginfo.h.
const (
	childExited = 1
	childDumped = 3
)

// peek reads the wait status of a child that has ended, without reaping it.
func peek(pidfd int) unix.WaitStatus {
	var info childInfo
	_, err := retry(func() (int, error) {
		return 0, unix.Waitid(unix.P_PIDFD, pidfd, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	})
	if err != nil || info.pid == 0 {
		return unknownExit << 8
	}
	return info.waitStatus()
}

// unknownExit is the code of a process whose end nobody saw.
const unknownExit = 255

// waitStatus puts together again what waitid took apart.
func (c *childInfo) waitStatus() unix.WaitStatus {
	switch c.code {
	case childExited:
		return unix.WaitStatus(c.status&0xff) << 8
	case childDumped:
		return unix.WaitStatus(c.status&0x7f | 0x80)
	}
	return unix.WaitStatus(c.status & 0x7f)
}
