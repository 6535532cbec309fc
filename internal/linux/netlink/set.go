// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package netlink

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func byIndex(index int) netlink.Link {
	return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

// SetUp sets a link up.
func SetUp(link int) error { return netlink.LinkSetUp(byIndex(link)) }

// SetMTU sets a link's MTU.
func SetMTU(link, mtu int) error { return netlink.LinkSetMTU(byIndex(link), mtu) }

// SetAddress adds an address, or changes how long it is valid.
func SetAddress(a Address) error {
	return netlink.AddrReplace(byIndex(a.Link), kernelAddress(a))
}

// RemoveAddress removes an address.
func RemoveAddress(a Address) error {
	return gone(netlink.AddrDel(byIndex(a.Link), kernelAddress(a)), unix.EADDRNOTAVAIL, unix.ENODEV)
}

func kernelAddress(a Address) *netlink.Addr {
	// In whole seconds, at least one: the kernel takes 0 for forever.
	seconds := 0
	if a.Valid > 0 {
		seconds = int(min(max(a.Valid.Round(time.Second)/time.Second, 1), 1<<31-1))
	}
	return &netlink.Addr{IPNet: ipNet(a.Prefix), ValidLft: seconds, PreferedLft: seconds}
}

// SetRoute adds a route, or replaces the one to the same network with the same metric.
func SetRoute(r Route) error { return netlink.RouteReplace(kernelRoute(r)) }

// RemoveRoute removes a route.
func RemoveRoute(r Route) error {
	return gone(netlink.RouteDel(kernelRoute(r)), unix.ESRCH, unix.ENODEV)
}

func kernelRoute(r Route) *netlink.Route {
	out := &netlink.Route{LinkIndex: r.Link, Dst: ipNet(r.To), Priority: r.Metric, Protocol: netlink.RouteProtocol(r.Proto), Scope: netlink.SCOPE_LINK}
	if r.Via.IsValid() {
		out.Gw, out.Scope = r.Via.AsSlice(), netlink.SCOPE_UNIVERSE
	}
	if r.To.Addr().Is6() {
		out.Scope = netlink.SCOPE_UNIVERSE // IPv6 has no scopes of routes
	}
	if r.OnLink {
		out.Flags = int(netlink.FLAG_ONLINK)
	}
	return out
}

// gone says that removing was not needed.
func gone(err error, absent ...error) error {
	for _, a := range absent {
		if errors.Is(err, a) {
			return nil
		}
	}
	return err
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
