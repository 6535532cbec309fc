// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package netlink reads and sets the links, addresses and routes of the
// network namespace it is called in, as plain values, and tells when they
// change. Each call is one exchange with the kernel; nothing is kept. Setting
// what is set already is not an error, nor is removing what is gone.
package netlink

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Link is a network interface.
type Link struct {
	Index    int
	Name     string
	Kind     string // "": a device; else bridge, veth, …
	MAC      net.HardwareAddr
	Up       bool // set up by us
	Carrier  bool // and the other end is there
	Loopback bool
	Ethernet bool
	MTU      int
}

// Who set an address or a route, in the kernel's numbers.
const (
	ProtoKernelLoopback  = 1 // of addresses
	ProtoKernelRouter    = 2
	ProtoKernelLinkLocal = 3

	RouteStatic = unix.RTPROT_STATIC
	RouteDHCP   = unix.RTPROT_DHCP
)

// Address is an address on a link.
type Address struct {
	Link   int
	Prefix netip.Prefix
	// Proto says who set it, one of Proto…, 0 when unknown.
	Proto uint8
	// Valid is how long it still is; 0: forever.
	Valid time.Duration
	// Tentative says that it cannot be used yet.
	Tentative bool
	// Duplicate says that another device has it.
	Duplicate bool
}

// Route is a unicast route of the main table.
type Route struct {
	Link   int
	To     netip.Prefix
	Via    netip.Addr // invalid: on the link
	Metric int
	Proto  int
	// OnLink says that Via need not be in a network of the link.
	OnLink bool
}

func (r Route) String() string {
	s := r.To.String()
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	return fmt.Sprintf("%s metric %d", s, r.Metric)
}

// interrupted says that the kernel changed something while it answered. What
// it answered is used: the change itself is an event that makes us ask again.
func interrupted(err error) bool { return errors.Is(err, netlink.ErrDumpInterrupted) }

// Links lists all links.
func Links() ([]Link, error) {
	all, err := netlink.LinkList()
	if err != nil && !interrupted(err) {
		return nil, fmt.Errorf("list links: %w", err)
	}
	out := make([]Link, len(all))
	for i, l := range all {
		out[i] = linkOf(l)
	}
	return out, nil
}

func linkOf(l netlink.Link) Link {
	a := l.Attrs()
	out := Link{
		Index: a.Index, Name: a.Name, Kind: l.Type(), MAC: a.HardwareAddr, MTU: a.MTU,
		Up: a.RawFlags&unix.IFF_UP != 0,
		// RUNNING comes up to a second later, when the kernel is done with its bookkeeping: most links send before that.
		Carrier:  a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_LOWER_UP != 0,
		Loopback: a.RawFlags&unix.IFF_LOOPBACK != 0,
		Ethernet: a.EncapType == "ether",
	}
	if out.Kind == "device" {
		out.Kind = ""
	}
	return out
}

// Addresses lists the addresses of all links.
func Addresses() ([]Address, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
	messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	if err != nil && !interrupted(err) {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []Address
	for _, m := range messages {
		if a, ok := addressOf(m); ok {
			out = append(out, a)
		}
	}
	return out, nil
}

// ifaProto is the attribute IFA_PROTO, since Linux 5.18.
const ifaProto = 11

// addressOf reads an RTM_NEWADDR message. The wrapped library does not tell who set an address.
func addressOf(m []byte) (Address, bool) {
	if len(m) < unix.SizeofIfAddrmsg {
		return Address{}, false
	}
	head := nl.DeserializeIfAddrmsg(m)
	attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfAddrmsg:])
	if err != nil {
		return Address{}, false
	}
	out := Address{Link: int(head.Index)}
	flags := uint32(head.Flags)
	var local, address netip.Addr
	for _, a := range attrs {
		switch {
		case a.Attr.Type == unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(a.Value)
		case a.Attr.Type == unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(a.Value)
		case a.Attr.Type == unix.IFA_FLAGS && len(a.Value) == 4:
			flags = nl.NativeEndian().Uint32(a.Value)
		case a.Attr.Type == unix.IFA_CACHEINFO && len(a.Value) >= unix.SizeofIfaCacheinfo:
			if valid := nl.DeserializeIfaCacheInfo(a.Value).Valid; valid != ^uint32(0) {
				out.Valid = max(time.Duration(valid)*time.Second, time.Second)
			}
		case a.Attr.Type == ifaProto && len(a.Value) == 1:
			out.Proto = a.Value[0]
		}
	}
	if !local.IsValid() {
		local = address
	}
	out.Tentative = flags&unix.IFA_F_TENTATIVE != 0
	out.Duplicate = flags&unix.IFA_F_DADFAILED != 0
	out.Prefix = netip.PrefixFrom(local, int(head.Prefixlen))
	return out, out.Prefix.IsValid()
}

// Router is what a link's routers say of how to come by addresses.
type Router struct {
	// Heard says that one spoke since the link came up.
	Heard bool
	// Managed: addresses are given by DHCPv6. Other: name servers and the like are.
	Managed, Other bool
}

// Attributes and flags of the kernel's IPv6 state of a link.
const (
	inet6Flags      = 1 // IFLA_INET6_FLAGS
	routerHeard     = 0x20
	routerManaged   = 0x40
	routerOtherConf = 0x80
)

// Routers returns what the routers of each link said, by the link's index.
func Routers() (map[int]Router, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_INET6))
	messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil && !interrupted(err) {
		return nil, fmt.Errorf("ask what routers said: %w", err)
	}
	out := map[int]Router{}
	for _, m := range messages {
		if len(m) < unix.SizeofIfInfomsg {
			continue
		}
		flags := inet6FlagsOf(m[unix.SizeofIfInfomsg:])
		out[int(nl.DeserializeIfInfomsg(m).Index)] = Router{
			Heard: flags&routerHeard != 0, Managed: flags&routerManaged != 0, Other: flags&routerOtherConf != 0,
		}
	}
	return out, nil
}

func inet6FlagsOf(attributes []byte) uint32 {
	attrs, err := nl.ParseRouteAttr(attributes)
	if err != nil {
		return 0
	}
	for _, a := range attrs {
		if a.Attr.Type&^unix.NLA_F_NESTED != unix.IFLA_PROTINFO {
			continue
		}
		nested, err := nl.ParseRouteAttr(a.Value)
		for _, n := range nested {
			if err == nil && n.Attr.Type == inet6Flags && len(n.Value) == 4 {
				return nl.NativeEndian().Uint32(n.Value)
			}
		}
	}
	return 0
}

// Routes lists the unicast routes of the main table that have one link.
func Routes() ([]Route, error) {
	all, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil && !interrupted(err) {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var out []Route
	for _, r := range all {
		if r.LinkIndex == 0 || r.Type != unix.RTN_UNICAST {
			continue
		}
		to, ok := prefixOf(r.Dst, r.Family)
		if !ok {
			continue
		}
		via, _ := netip.AddrFromSlice(r.Gw)
		out = append(out, Route{
			Link: r.LinkIndex, To: to, Via: via.Unmap(), Metric: r.Priority, Proto: int(r.Protocol),
			OnLink: r.Flags&int(netlink.FLAG_ONLINK) != 0,
		})
	}
	return out, nil
}

// prefixOf reads a destination; the default route's may be absent.
func prefixOf(n *net.IPNet, family int) (netip.Prefix, bool) {
	if n == nil {
		if family == netlink.FAMILY_V6 {
			return netip.PrefixFrom(netip.IPv6Unspecified(), 0), true
		}
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0), true
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	if family == netlink.FAMILY_V4 {
		a = a.Unmap()
	}
	p := netip.PrefixFrom(a, bits)
	return p, ok && p.IsValid()
}
