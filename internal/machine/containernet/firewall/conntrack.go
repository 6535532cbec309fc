// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"errors"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/machine/containernet/batch"
)

// The kernel decides where a connection goes at its first packet and keeps to
// it. For UDP, where a connection is packets that keep coming, that can be for
// ever: a client that sends all the time would never see a new mapping, or
// never stop to see an old one. So those memories are deleted.

// ForgetBefore deletes what the kernel remembers of UDP packets that came to
// these ports before they were published.
func ForgetBefore(forwards []Forward) error {
	ports := map[uint16]netip.Addr{}
	for _, f := range forwards {
		if f.Protocol == unix.IPPROTO_UDP {
			ports[f.Host.Port()] = f.Container.Addr()
		}
	}
	if len(ports) == 0 {
		return nil
	}
	return forget(func(c *netlink.ConntrackFlow) bool {
		_, published := ports[c.Forward.DstPort]
		return published && c.Forward.Protocol == unix.IPPROTO_UDP && c.Forward.DstIP.Equal(c.Reverse.SrcIP)
	})
}

// ForgetContainer deletes what the kernel remembers of connections from and to
// these addresses, which nobody has any more.
func ForgetContainer(addrs []netip.Addr) error {
	gone := map[netip.Addr]bool{}
	for _, a := range addrs {
		gone[a] = true
	}
	return forget(func(c *netlink.ConntrackFlow) bool {
		return gone[addr(c.Forward.SrcIP)] || gone[addr(c.Reverse.SrcIP)]
	})
}

type flowFilter func(*netlink.ConntrackFlow) bool

// MatchConntrackFlow is called by the netlink library.
func (f flowFilter) MatchConntrackFlow(c *netlink.ConntrackFlow) bool { return f(c) }

// forgetting reads the kernel's whole table, which is large on a large machine.
var forgetting = batch.Runner[netlink.CustomConntrackFilter]{Do: func(which []netlink.CustomConntrackFilter) error {
	_, err4 := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, which...)
	_, err6 := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET6, which...)
	return errors.Join(err4, err6)
}}

func forget(which flowFilter) error { return forgetting.Run(which) }

func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
