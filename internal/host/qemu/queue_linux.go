// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// queueLength is how many connections to a forwarded port wait until QEMU takes them.
const queueLength = 512

// lengthenQueues lets the ports that a running QEMU forwards keep more new
// connections waiting than the two that its user network asks the kernel for.
// Of more that come at the same moment the kernel drops what they send, and each
// waits until it sends again: one second, three, seven, and so on.
//
// A socket that listens takes a new length at any time, from whoever holds it.
func lengthenQueues(pid int, start string) error {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("lengthen the queues of QEMU's ports: %w", err)
	}
	defer unix.Close(process)
	if !processAlive(pid, start) {
		return nil
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("lengthen the queues of QEMU's ports: %w", err)
	}
	for _, e := range entries {
		link, err := os.Readlink(dir + "/" + e.Name())
		if err != nil || !strings.HasPrefix(link, "socket:") {
			continue // closed meanwhile, or no socket
		}
		fd, err := strconv.Atoi(e.Name())
		if err == nil {
			err = lengthenQueue(process, fd)
		}
		if err != nil {
			return fmt.Errorf("lengthen the queues of QEMU's ports: %w", err)
		}
	}
	return nil
}

// lengthenQueue does so with one of the process's sockets, if it is one of TCP that listens.
func lengthenQueue(process, theirs int) error {
	fd, err := unix.PidfdGetfd(process, theirs, 0)
	if errors.Is(err, unix.EBADF) {
		return nil // closed meanwhile
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil || family != unix.AF_INET {
		return err
	}
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil || listens == 0 {
		return err
	}
	return unix.Listen(fd, queueLength)
}
