// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"wherry.example/wherry/api/wherryv1"
)

// ParsePort reads [address:][port[-port]:]containerPort[-port][/tcp|udp]. An
// IPv6 address stands in brackets.
func ParsePort(text string) (*wherryv1.PortMapping, error) {
	p, err := parsePort(text)
	if err != nil {
		return nil, fmt.Errorf("-p %q: %w", text, err)
	}
	return p, nil
}

func parsePort(text string) (*wherryv1.PortMapping, error) {
	rest, protocol, ok := strings.Cut(text, "/")
	if !ok {
		protocol = "tcp"
	}
	if protocol != "tcp" && protocol != "udp" {
		return nil, fmt.Errorf("unknown protocol %q: want tcp or udp", protocol)
	}
	p := &wherryv1.PortMapping{Protocol: protocol}
	rest, container := cutLast(rest)
	first, count, err := parseRange(container)
	if err != nil {
		return nil, err
	}
	p.ContainerPort, p.Count = first, count
	address, host := rest, ""
	if rest != "" {
		address, host = cutLast(rest)
	}
	if host != "" {
		hostFirst, hostCount, err := parseRange(host)
		if err != nil {
			return nil, err
		}
		if hostCount != count {
			return nil, fmt.Errorf("the ranges have %d and %d ports", hostCount, count)
		}
		p.HostPort = hostFirst
	}
	p.HostAddress, err = parseHostAddress(address)
	return p, err
}

// cutLast cuts at the last colon outside brackets: "a:b" is "a", "b"; "b" is "", "b".
func cutLast(s string) (before, after string) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 || strings.LastIndexByte(s, ']') > i {
		return "", s
	}
	// "address::80" leaves "address:" whose host port is empty; keep the address whole.
	return s[:i], s[i+1:]
}

func parseHostAddress(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	bare := s
	if len(s) > 2 && s[0] == '[' && s[len(s)-1] == ']' {
		bare = s[1 : len(s)-1]
	} else if strings.Contains(s, ":") {
		return "", fmt.Errorf("address %q: an IPv6 address stands in brackets", s)
	}
	addr, err := netip.ParseAddr(bare)
	if err != nil || addr.Zone() != "" {
		return "", fmt.Errorf("%q is not an IP address", bare)
	}
	return addr.String(), nil
}

// parseRange reads "80" or "8000-8010".
func parseRange(s string) (first, count uint32, err error) {
	a, b, ranged := strings.Cut(s, "-")
	low, err := parsePortNumber(a)
	if err != nil {
		return 0, 0, err
	}
	if !ranged {
		return low, 1, nil
	}
	high, err := parsePortNumber(b)
	if err != nil {
		return 0, 0, err
	}
	if high < low {
		return 0, 0, fmt.Errorf("the range %q runs backwards", s)
	}
	return low, high - low + 1, nil
}

func parsePortNumber(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port (1…65535)", s)
	}
	return uint32(n), nil
}

// FormatPorts writes published ports as docker ps does.
func FormatPorts(list []*wherryv1.PortMapping) string {
	var parts []string
	for _, p := range list {
		address := p.HostAddress
		switch {
		case address == "":
			address = "*"
		case strings.Contains(address, ":"):
			address = "[" + address + "]"
		}
		protocol := p.Protocol
		if protocol == "" {
			protocol = "tcp"
		}
		parts = append(parts, fmt.Sprintf("%s:%s->%s/%s", address, formatRange(p.HostPort, p.Count), formatRange(p.ContainerPort, p.Count), protocol))
	}
	return strings.Join(parts, ", ")
}

func formatRange(first, count uint32) string {
	if count < 2 {
		return strconv.FormatUint(uint64(first), 10)
	}
	return fmt.Sprintf("%d-%d", first, first+count-1)
}
