// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func validateNetwork(c check, n Network) {
	seen := map[string]bool{}
	for i, f := range n.Interfaces {
		at := c.at("interfaces").index(i)
		validateMatch(at.at("match"), f.Match, seen)
		validateInterface(at, f)
	}
	if len(n.Nameservers) > 8 {
		c.at("nameservers").errorf("%d are more than 8", len(n.Nameservers))
	}
	for i, s := range n.Nameservers {
		if a, err := netip.ParseAddr(s); err != nil || a.IsUnspecified() || a.IsMulticast() {
			c.at("nameservers").index(i).errorf("%s is not the address of a name server", shorten(s))
		}
	}
	if len(n.Search) > 16 {
		c.at("search").errorf("%d domains are more than 16", len(n.Search))
	}
	for i, s := range n.Search {
		if !isDomain(strings.TrimSuffix(s, ".")) {
			c.at("search").index(i).errorf("%s is not a domain", shorten(s))
		}
	}
}

func validateMatch(c check, match string, seen map[string]bool) {
	key := match
	if mac, err := net.ParseMAC(match); err == nil {
		key = mac.String()
		if len(mac) != 6 {
			c.errorf("%s is not an Ethernet address", shorten(match))
		}
	} else if _, err := path.Match(match, "eth0"); err != nil || match == "" || len(match) > 64 || strings.ContainsAny(match, "/: \t\n\x00") {
		c.errorf("%s is not a link's name, a glob like enp*, or a MAC address", shorten(match))
	}
	if seen[key] {
		c.errorf("%s is matched by an entry before", shorten(match))
	}
	seen[key] = true
}

func validateInterface(c check, f Interface) {
	var has4, has6 bool
	seen := map[netip.Addr]bool{}
	for i, a := range f.Addresses {
		p, ok := validateAddress(c.at("addresses").index(i), a)
		if !ok {
			continue
		}
		if seen[p.Addr()] {
			c.at("addresses").index(i).errorf("%s is given twice", p.Addr())
		}
		seen[p.Addr()] = true
		has4, has6 = has4 || p.Addr().Is4(), has6 || p.Addr().Is6()
	}
	if has4 && f.DHCP != nil && *f.DHCP {
		c.at("dhcp").warnf("is used beside the static addresses")
	}
	switch f.IPv6 {
	case "", IPv6Auto:
	case IPv6Static:
		if !has6 {
			c.at("ipv6").warnf("is static, and there is no IPv6 address")
		}
	case IPv6Off:
		if has6 || f.Gateway6 != "" {
			c.at("ipv6").errorf("is off, and there is an IPv6 address or gateway")
		}
	default:
		c.at("ipv6").errorf("%s is not auto, off or static", shorten(f.IPv6))
	}
	validateGateway(c.at("gateway"), f.Gateway, netip.Addr.Is4, "IPv4", has4 || f.UseDHCP())
	validateGateway(c.at("gateway6"), f.Gateway6, netip.Addr.Is6, "IPv6", has6 || f.IPv6 == "" || f.IPv6 == IPv6Auto)
	for i, r := range f.Routes {
		validateRoute(c.at("routes").index(i), r)
	}
	validateMTU(c.at("mtu"), f)
}

func validateAddress(c check, s string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		c.errorf("%s is not an address with its prefix length, like 192.0.2.10/24", shorten(s))
	case p.Addr().IsUnspecified() || p.Addr().IsMulticast() || p.Addr().IsLoopback() || p.Addr().Is4In6() || p.Bits() == 0:
		c.errorf("%s cannot be the address of a machine", shorten(s))
	case p.Addr().Is4() && p.Bits() < 31 && p.Masked().Addr() == p.Addr():
		c.errorf("%s is the address of the network itself", shorten(s))
	default:
		return p, true
	}
	return netip.Prefix{}, false
}

func validateGateway(c check, s string, family func(netip.Addr) bool, familyName string, reachable bool) {
	if s == "" {
		return
	}
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil || !family(a) || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast():
		c.errorf("%s is not the %s address of a gateway", shorten(s), familyName)
	case !reachable:
		c.errorf("there is no %s address to reach it from", familyName)
	}
}

func validateRoute(c check, r Route) {
	to, err := netip.ParsePrefix(r.To)
	switch {
	case err != nil:
		c.at("to").errorf("%s is not a network, like 198.51.100.0/24", shorten(r.To))
	case to.Masked() != to:
		c.at("to").errorf("%s is an address inside of a network: write %s", shorten(r.To), to.Masked())
	}
	if r.Via != "" {
		via, verr := netip.ParseAddr(r.Via)
		switch {
		case verr != nil || via.Zone() != "" || via.IsUnspecified():
			c.at("via").errorf("%s is not an address", shorten(r.Via))
		case err == nil && via.Is4() != to.Addr().Is4():
			c.at("via").errorf("%s is not of the same family as %s", via, to)
		}
	}
	if r.Metric < 0 {
		c.at("metric").errorf("%d is negative", r.Metric)
	}
}

func validateMTU(c check, f Interface) {
	switch {
	case f.MTU == 0:
	case f.MTU < 576 || f.MTU > 65535:
		c.errorf("%d is not between 576 and 65535", f.MTU)
	case f.MTU < 1280 && f.IPv6 != IPv6Off:
		c.warnf("%d is below 1280: the link will have no IPv6", f.MTU)
	}
}

func validateTime(c check, servers []string) {
	if len(servers) > 16 {
		c.errorf("%d servers are more than 16", len(servers))
	}
	for i, s := range servers {
		if _, err := netip.ParseAddr(s); err == nil {
			continue
		}
		if !isHostPort(s) {
			c.index(i).errorf("%s is not the name or address of a server", shorten(s))
		}
	}
}

// isHostPort accepts host and host:port, where host is a domain, an IPv4
// address or an IPv6 address in brackets.
func isHostPort(s string) bool {
	host, port := s, ""
	if h, p, err := net.SplitHostPort(s); err == nil {
		host, port = h, p
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 || strconv.Itoa(n) != port {
			return false
		}
		if a, err := netip.ParseAddr(host); err == nil {
			return a.Zone() == ""
		}
	} else if inner, ok := strings.CutPrefix(s, "["); ok {
		a, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		return err == nil && a.Is6() && strings.HasSuffix(inner, "]")
	}
	return isDomain(host)
}

func validateRegistries(c check, list []Registry) {
	seen := map[string]bool{}
	for i, r := range list {
		at := c.index(i)
		if r.Host != AnyRegistry && !isHostPort(r.Host) {
			at.at("host").errorf("%s is not host or host:port (no scheme, no path), nor %q", shorten(r.Host), AnyRegistry)
		}
		if seen[strings.ToLower(r.Host)] {
			at.at("host").errorf("%s has an entry before", shorten(r.Host))
		}
		seen[strings.ToLower(r.Host)] = true
		validateTransport(at, r)
		validateCredentials(at, r)
		for j, m := range r.Mirrors {
			validateMirror(at.at("mirrors").index(j), m, r)
		}
	}
}

func validateTransport(c check, r Registry) {
	if r.PlainHTTP && r.Host == AnyRegistry {
		c.at("plainHTTP").errorf("must name its registry: it cannot hold for all of them")
	}
	if r.CA == "" {
		return
	}
	if r.PlainHTTP {
		c.at("ca").warnf("is not used with plain HTTP")
	}
	n, err := countCertificates([]byte(r.CA))
	switch {
	case err != nil:
		c.at("ca").errorf("%v", err)
	case n == 0:
		c.at("ca").errorf("holds no PEM certificate (-----BEGIN CERTIFICATE-----)")
	}
}

func countCertificates(data []byte) (n int, err error) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return n, nil
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return n, err
		}
		n++
	}
}

func validateCredentials(c check, r Registry) {
	switch {
	case r.Username == "" && r.Password == "":
	case r.Username == "":
		c.at("username").errorf("is missing beside the password")
	case r.Password == "":
		c.at("password").errorf("is missing beside the user name")
	case strings.ContainsAny(r.Username, ":\n\x00"):
		c.at("username").errorf("cannot hold a colon or a line break")
	case r.Host == AnyRegistry:
		c.at("password").errorf("must name its registry: it would be sent to all of them")
	case r.PlainHTTP:
		c.at("password").warnf("will be sent without TLS")
	}
}

var mirrorPrefix = regexp.MustCompile(`^[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$`)

func validateMirror(c check, mirror string, r Registry) {
	host, prefix, slash := strings.Cut(mirror, "/")
	switch {
	case !isHostPort(host) || slash && !mirrorPrefix.MatchString(prefix) || len(mirror) > 512:
		c.errorf("%s is not host[:port][/prefix] (no scheme)", shorten(mirror))
	case strings.EqualFold(mirror, r.Host):
		c.errorf("is the registry itself")
	}
}

func validatePool(c check, s string, four bool) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || p.Addr().Is4() != four || p.Addr().Is4In6():
		c.errorf("%s is not a network of its family", shorten(s))
	case p.Masked() != p:
		c.errorf("%s is an address inside of a network: write %s", shorten(s), p.Masked())
	case four && (p.Bits() < 8 || p.Bits() > 24):
		c.errorf("%s must be between /8 and /24: container networks get a /24 each", shorten(s))
	case !four && (p.Bits() < 16 || p.Bits() > 64):
		c.errorf("%s must be between /16 and /64: container networks get a /64 each", shorten(s))
	case p.Addr().IsMulticast() || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast() || p.Addr().IsUnspecified():
		c.errorf("%s cannot hold containers", shorten(s))
	case !p.Addr().IsPrivate() && !slices.ContainsFunc(sharedPools, func(q netip.Prefix) bool { return q.Overlaps(p) }):
		c.warnf("%s is not a private network: addresses of others in it cannot be reached", shorten(s))
	}
}

// sharedPools are not private in RFC 1918's sense and still nobody's.
var sharedPools = []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("198.18.0.0/15")}
