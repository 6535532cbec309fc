// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Event says that something changed. What is not nil or zero tells what; all
// zero: events were lost, and everything must be read again.
type Event struct {
	// Changed is a link that is new or changed, or whose addresses did.
	Changed *Link
	// Removed is the index of a link that is gone.
	Removed int
	// Address is the index of a link whose addresses changed, or what a router
	// says of them.
	Address int
	// Duplicate is the IPv6 address that the kernel took from that link, because
	// another device has it.
	Duplicate netip.Addr
	// Router are options of a router's announcement that came in by the link Announced.
	Announced int
	Router    []byte
}

// Watch reports changes to links and addresses, and announcements of routers.
type Watch struct {
	file   *os.File
	buffer []byte
}

// groups are the kernel's multicast groups that a Watch joins.
const groups = 1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1) |
	1<<(unix.RTNLGRP_IPV6_IFINFO-1) | 1<<(unix.RTNLGRP_ND_USEROPT-1)

// NewWatch begins to watch: what changes from now on is reported.
func NewWatch() (*Watch, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("watch the network: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch the network: %w", err)
	}
	return &Watch{file: os.NewFile(uintptr(fd), "netlink"), buffer: make([]byte, 32<<10)}, nil
}

// Close ends a Next that waits.
func (w *Watch) Close() error { return w.file.Close() }

// Next waits for changes. The values of the events are valid until the next call.
func (w *Watch) Next() ([]Event, error) {
	n, err := w.file.Read(w.buffer)
	if errors.Is(err, unix.ENOBUFS) {
		return []Event{{}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("watch the network: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(w.buffer[:n])
	if err != nil {
		return []Event{{}}, nil // cut short: some were lost
	}
	var out []Event
	for _, m := range messages {
		if e, ok := eventOf(m); ok {
			out = append(out, e)
		}
	}
	return out, nil
}

func eventOf(m syscall.NetlinkMessage) (Event, bool) {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return linkEvent(m)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if len(m.Data) < unix.SizeofIfAddrmsg {
			return Event{}, false
		}
		return addressEvent(m)
	case unix.RTM_NEWNDUSEROPT:
		return routerEvent(m.Data)
	}
	return Event{}, false
}

func addressEvent(m syscall.NetlinkMessage) (Event, bool) {
	e := Event{Address: int(nl.DeserializeIfAddrmsg(m.Data).Index)}
	if a, ok := addressOf(m.Data); ok && a.Duplicate && m.Header.Type == unix.RTM_DELADDR {
		e.Duplicate = a.Prefix.Addr()
	}
	return e, true
}

func linkEvent(m syscall.NetlinkMessage) (Event, bool) {
	if len(m.Data) < unix.SizeofIfInfomsg {
		return Event{}, false
	}
	switch m.Data[0] {
	case unix.AF_UNSPEC:
	case unix.AF_INET6:
		return Event{Address: int(nl.DeserializeIfInfomsg(m.Data).Index)}, m.Header.Type == unix.RTM_NEWLINK
	default:
		return Event{}, false // of a bridge's ports
	}
	if m.Header.Type == unix.RTM_DELLINK {
		return Event{Removed: int(nl.DeserializeIfInfomsg(m.Data).Index)}, true
	}
	l, err := netlink.LinkDeserialize((*unix.NlMsghdr)(&m.Header), m.Data)
	if err != nil {
		return Event{}, true // not understood: read everything
	}
	link := linkOf(l)
	return Event{Changed: &link}, true
}

// nduseroptmsg's layout: family, pad, options' length (2), link (4), ICMP type, code, pad (6), options.
const nduseroptSize = 16

func routerEvent(data []byte) (Event, bool) {
	if len(data) < nduseroptSize || data[0] != unix.AF_INET6 {
		return Event{}, false
	}
	length := int(binary.NativeEndian.Uint16(data[2:]))
	if length > len(data)-nduseroptSize {
		return Event{}, false
	}
	return Event{Announced: int(binary.NativeEndian.Uint32(data[4:])), Router: data[nduseroptSize : nduseroptSize+length]}, true
}
