// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package link makes the links of container networks: bridges on the machine,
// and veth pairs from a bridge into a container's network namespace. It reads
// what the machine itself uses, so that networks keep out of its way.
//
// Everything is idempotent except Connect, which makes a pair that must not
// exist yet and takes it away again when a later step fails. A link is ours by
// its name alone: see Own.
package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Names of our links begin so.
const (
	DefaultBridge = "wb0"
	bridgePrefix  = "wb-"
	vethPrefix    = "wv"
)

// BridgeName returns the name of a network's bridge. id is hexadecimal.
func BridgeName(id string) string { return bridgePrefix + id[:12] }

// VethName returns the machine's end of a container's n-th link, n < 16.
func VethName(container string, n int) string {
	return fmt.Sprintf("%s%s%x", vethPrefix, container[:12], n)
}

// Own tells whether a name is that of one of our bridges or veths.
func Own(name string) bool {
	return name == DefaultBridge || strings.HasPrefix(name, bridgePrefix) || IsVeth(name)
}

// IsVeth tells whether a name is that of a machine's end of a container's link.
func IsVeth(name string) bool {
	return strings.HasPrefix(name, vethPrefix) && len(name) == len(vethPrefix)+13
}

// Bridge is a bridge as it should be.
type Bridge struct {
	Name      string
	MTU       int
	Addresses []netip.Prefix
}

// Ensure makes the bridge, or makes an existing one right.
func (b Bridge) Ensure() error {
	if err := b.ensure(); err != nil {
		return fmt.Errorf("set up bridge %s: %w", b.Name, err)
	}
	return nil
}

func (b Bridge) ensure() error {
	noSnooping := false // a bridge without a multicast router can only lose neighbour discovery by it
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = b.Name, b.MTU
	if len(b.Addresses) > 0 {
		attrs.HardwareAddr = MAC(b.Addresses[0].Addr())
	}
	err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &noSnooping})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	l, err := netlink.LinkByName(b.Name)
	if err != nil {
		return err
	}
	if l.Type() != "bridge" {
		return fmt.Errorf("a link of that name is a %s", l.Type())
	}
	if err := bridgeSysctls(b.Name); err != nil {
		return err
	}
	if err := netlink.LinkSetMTU(l, b.MTU); err != nil {
		return err
	}
	addresses := b.Addresses
	if HasIPv6() {
		addresses = append(slices.Clone(addresses), linkLocal)
	}
	if err := netlink.LinkSetUp(l); err != nil { // before the addresses: see Veth
		return err
	}
	if err := setAddresses(l, addresses); err != nil || !HasIPv6() {
		return err
	}
	return loopback6(l)
}

// linkLocal is every bridge's: one that is there at once, while the kernel
// would make its own when the first container's link has come up, up to a
// second later, and cannot find neighbours before.
var linkLocal = netip.MustParsePrefix("fe80::1/64")

// loopback6 lets answers of containers to the machine's ::1 back in: the
// kernel takes packets for ::1 only by a link that has a route for it. (They
// are for ::1 only after translation; real ones from outside are dropped.)
// Routes to one address of one priority would replace each other, so that only
// the newest bridge had one.
func loopback6(l netlink.Link) error {
	err := netlink.RouteReplace(&netlink.Route{
		LinkIndex: l.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("::1/128")),
		Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Priority: 1024 + l.Attrs().Index,
	})
	if err != nil {
		return fmt.Errorf("add the route for ::1: %w", err)
	}
	return nil
}

// setAddresses gives the link these addresses and takes others away.
func setAddresses(l netlink.Link, want []netip.Prefix) error {
	have, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	keep := map[netip.Prefix]bool{}
	for _, p := range want {
		keep[p] = true
	}
	for _, a := range have {
		p := prefix(a.IPNet)
		if !keep[p] {
			if err := netlink.AddrDel(l, &a); err != nil {
				return err
			}
		}
	}
	for _, p := range want {
		if err := netlink.AddrReplace(l, address(p)); err != nil {
			return fmt.Errorf("add address %s: %w", p, err)
		}
	}
	return nil
}

// address is used at once: nobody else has an address that we gave out, and
// waiting for duplicates costs the first second of every container.
func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// Veths lists the machine's ends of containers' links.
func Veths() ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var out []string
	for _, l := range links {
		if IsVeth(l.Attrs().Name) {
			out = append(out, l.Attrs().Name)
		}
	}
	return out, nil
}

// Bridges lists our bridges.
func Bridges() ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var out []string
	for _, l := range links {
		if name := l.Attrs().Name; Own(name) && !IsVeth(name) {
			out = append(out, name)
		}
	}
	return out, nil
}

// MAC derives a locally administered address from an IPv4 one, so that a
// container that gets its address again is the same to its neighbours.
func MAC(a netip.Addr) net.HardwareAddr {
	b := a.AsSlice()
	return append(net.HardwareAddr{0x02, 0x77}, b[len(b)-4:]...)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefix is the zero Prefix for what is no network.
func prefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}
	}
	ones, bits := n.Mask.Size()
	if a = a.Unmap(); bits == 128 && a.Is4() {
		ones -= 96
	}
	return netip.PrefixFrom(a, ones)
}
