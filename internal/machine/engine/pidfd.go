// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// pidfd is a reference to a process (pidfd_open(2)): a signal through it never
// hits another process that was given the same number later, and after close
// none that was given the same descriptor.
type pidfd struct{ f *os.File }

func openPidfd(pid int) (*pidfd, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("hold the container's process: %w", err)
	}
	return &pidfd{os.NewFile(uintptr(fd), "pidfd")}, nil
}

// signal is os.ErrProcessDone when the process has ended.
func (p *pidfd) signal(sig unix.Signal) error {
	conn, err := p.f.SyscallConn()
	if err != nil {
		return fmt.Errorf("send signal %d: %w", sig, err)
	}
	// The descriptor stays what it is until the function returns.
	closed := conn.Control(func(fd uintptr) { err = unix.PidfdSendSignal(int(fd), sig, nil, 0) })
	switch {
	case closed != nil, errors.Is(err, unix.ESRCH):
		return os.ErrProcessDone
	case err != nil:
		return fmt.Errorf("send signal %d: %w", sig, err)
	}
	return nil
}

func (p *pidfd) close() { p.f.Close() }
