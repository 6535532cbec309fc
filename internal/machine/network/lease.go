// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"wherry.example/wherry/config"
)

// Bounds of what a DHCP server may say.
const (
	maxServers   = 8
	maxRoutes    = 64
	minLease     = 30 * time.Second
	maxLease     = 10 * 365 * 24 * time.Hour
	defaultLease = time.Hour
)

// Lease is what a DHCP server gave. It is kept in a file, so that the next
// wherryd goes on where this one ended.
type Lease struct {
	MAC    string
	Server netip.Addr
	// ServerID is how a DHCPv6 server is known.
	ServerID []byte `json:",omitempty"`
	// Address is not valid when DHCPv6 was asked for servers only.
	Address netip.Prefix
	Routes  []LeaseRoute
	DNS     []netip.Addr
	Search  []string
	NTP     []netip.Addr
	Name    string // of this machine
	MTU     int
	// Obtained, and the others counted from it, are since boot: the wall clock jumps.
	Obtained               time.Duration
	Renew, Rebind, Expires time.Duration
}

// LeaseRoute is a route from option 121, or a router.
type LeaseRoute struct {
	To  netip.Prefix
	Via netip.Addr // invalid: on the link
}

// left is how much of the lease remains at a time since boot.
func (l *Lease) left(now time.Duration) time.Duration { return l.Obtained + l.Expires - now }

// newLease reads a server's acknowledgement. Only the address must be right;
// what else is malformed is left out.
func newLease(ack *dhcpv4.DHCPv4, now time.Duration) (*Lease, error) {
	l := &Lease{
		MAC: ack.ClientHWAddr.String(), Obtained: now, Server: addr4(ack.ServerIdentifier()),
		DNS: servers4(ack.DNS()), NTP: servers4(ack.NTPServers()), Search: searchOf(ack),
	}
	a := addr4(ack.YourIPAddr)
	if !usable(a) {
		return nil, fmt.Errorf("the DHCP server %s offers the address %s", ack.ServerIdentifier(), ack.YourIPAddr)
	}
	l.Address = netip.PrefixFrom(a, maskBits(ack.SubnetMask(), ack.YourIPAddr))
	if l.Address.Bits() == 0 {
		return nil, errors.New("the DHCP server offers an address without a network")
	}
	l.Routes = leaseRoutes(ack, l.Address)
	if name := ack.HostName(); config.IsHostName(strings.ToLower(name)) {
		l.Name = name
	}
	if v, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options); err == nil && v >= 576 {
		l.MTU = int(v)
	}
	l.setTimes(ack)
	return l, nil
}

// setTimes makes 0 < renew < rebind < expires of whatever the server says.
func (l *Lease) setTimes(ack *dhcpv4.DHCPv4) {
	l.Expires = min(max(ack.IPAddressLeaseTime(defaultLease), minLease), maxLease)
	l.Renew = ack.IPAddressRenewalTime(l.Expires / 2)
	l.Rebind = ack.IPAddressRebindingTime(l.Expires * 7 / 8)
	if l.Renew < minLease/3 || l.Renew >= l.Rebind || l.Rebind >= l.Expires {
		l.Renew, l.Rebind = l.Expires/2, l.Expires*7/8
	}
}

// leaseRoutes reads option 121, and the routers only where that is absent (RFC 3442).
func leaseRoutes(ack *dhcpv4.DHCPv4, own netip.Prefix) []LeaseRoute {
	var out []LeaseRoute
	for _, r := range ack.ClasslessStaticRoute() {
		to, ok := prefix4(r.Dest)
		via := addr4(r.Router)
		if !ok || len(out) == maxRoutes {
			continue
		}
		switch {
		case via.IsUnspecified():
			out = append(out, LeaseRoute{To: to})
		case usable(via):
			out = append(out, LeaseRoute{To: to, Via: via})
		}
	}
	if len(out) > 0 || ack.Options.Has(dhcpv4.OptionClasslessStaticRoute) {
		return out
	}
	for _, r := range ack.Router() {
		if via := addr4(r); usable(via) && via != own.Addr() {
			return []LeaseRoute{{To: default4, Via: via}}
		}
	}
	return nil
}

var (
	default4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	default6 = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
)

// searchOf reads the search list, and the domain where that is absent.
func searchOf(ack *dhcpv4.DHCPv4) []string {
	var out []string
	if list := ack.DomainSearch(); list != nil {
		for _, d := range list.Labels {
			out = appendDomain(out, d)
		}
	}
	if len(out) == 0 {
		for d := range strings.FieldsSeq(strings.TrimRight(ack.DomainName(), "\x00")) {
			out = appendDomain(out, d)
		}
	}
	return out
}

// appendDomain adds a domain that can stand in resolv.conf.
func appendDomain(list []string, d string) []string {
	d = strings.ToLower(strings.TrimSuffix(d, "."))
	if len(list) >= maxServers || !config.IsDomain(d) || slices.Contains(list, d) {
		return list
	}
	return append(list, d)
}

func servers4(ips []net.IP) []netip.Addr {
	var out []netip.Addr
	for _, ip := range ips {
		if a := addr4(ip); usable(a) && len(out) < maxServers && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// usable refuses what cannot be one machine's address.
func usable(a netip.Addr) bool {
	return a.Is4() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func addr4(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func prefix4(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	bits, size := n.Mask.Size()
	p := netip.PrefixFrom(addr4(n.IP), bits)
	return p.Masked(), size == 32 && p.IsValid() && p.Addr().Is4()
}

// maskBits is the mask's length; without a mask, that of the address's class.
func maskBits(mask net.IPMask, ip net.IP) int {
	if bits, size := mask.Size(); size == 32 {
		return bits
	}
	bits, _ := ip.DefaultMask().Size()
	return bits
}
