// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package uevent hears from the kernel that devices come and go.
package uevent

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Event is one message of the kernel.
type Event struct {
	Action string // "add", "remove", "change", "move", "online", "offline", "bind", "unbind"
	Path   string // below /sys
	Vars   map[string]string
}

// maxMessage is more than the kernel's own bound (UEVENT_BUFFER_SIZE 2048 and a path).
const maxMessage = 16 << 10

// maxVars is more than the kernel's own bound (UEVENT_NUM_ENVP 64).
const maxVars = 128

// receiveBuffer holds the events of a burst (200 containers make 400 links at once).
const receiveBuffer = 4 << 20

// Parse reads "ACTION@PATH\0KEY=VALUE\0…".
func Parse(msg []byte) (Event, error) {
	fields := bytes.Split(msg, []byte{0})
	action, path, ok := strings.Cut(string(fields[0]), "@")
	if !ok || action == "" || !strings.HasPrefix(path, "/") {
		return Event{}, errors.New("not a kernel event")
	}
	if len(fields) > maxVars {
		return Event{}, errors.New("an event with too many variables")
	}
	e := Event{Action: action, Path: path, Vars: make(map[string]string, len(fields))}
	for _, f := range fields[1:] {
		if k, v, ok := strings.Cut(string(f), "="); ok && k != "" {
			e.Vars[k] = v
		}
	}
	return e, nil
}

// Listener receives events. Not safe for concurrent use.
type Listener struct {
	fd  int
	buf []byte
}

// Listen begins to receive. Only events of the kernel's own multicast group
// arrive: no program can forge them.
func Listen() (*Listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("listen for devices: %w", err)
	}
	// Without CAP_NET_ADMIN the default stays, which is enough for a quiet machine.
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen for devices: %w", err)
	}
	return &Listener{fd: fd, buf: make([]byte, maxMessage)}, nil
}

// ErrLost is returned when events came faster than they were read: look at
// everything anew.
var ErrLost = errors.New("device events were lost")

// Next waits for an event.
func (l *Listener) Next() (Event, error) {
	for {
		n, from, err := unix.Recvfrom(l.fd, l.buf, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS):
			return Event{}, ErrLost
		case err != nil:
			return Event{}, fmt.Errorf("listen for devices: %w", err)
		}
		if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
			continue
		}
		if e, err := Parse(l.buf[:n]); err == nil {
			return e, nil
		}
	}
}

// Close ends listening.
func (l *Listener) Close() error { return unix.Close(l.fd) }
