// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// announced is what routers of one link said of name servers (RFC 8106). Each
// entry holds until its time since boot. It is kept in a file like a Lease.
type announced struct {
	DNS    []announcedServer
	Search []announcedDomain
}

type announcedServer struct {
	Address netip.Addr
	Until   time.Duration
}

type announcedDomain struct {
	Name  string
	Until time.Duration
}

// Types of options in a router's announcement.
const (
	optionRDNSS = 25
	optionDNSSL = 31
)

// merge reads the options of an announcement that came at the time now.
// Malformed ones end the reading: what came before them counts.
func (a *announced) merge(options []byte, now time.Duration) {
	for len(options) >= 8 {
		size := int(options[1]) * 8
		if size == 0 || size > len(options) {
			return
		}
		until := now + time.Duration(binary.BigEndian.Uint32(options[4:]))*time.Second
		body := options[8:size]
		switch options[0] {
		case optionRDNSS:
			for ; len(body) >= 16; body = body[16:] {
				a.server(netip.AddrFrom16([16]byte(body)), until, now)
			}
		case optionDNSSL:
			for _, d := range domains(body) {
				a.domain(d, until, now)
			}
		}
		options = options[size:]
	}
}

// server sets until when a name server holds; a lifetime of 0 takes it away.
func (a *announced) server(s netip.Addr, until, now time.Duration) {
	a.DNS = slices.DeleteFunc(a.DNS, func(o announcedServer) bool { return o.Address == s })
	if until > now && len(a.DNS) < maxServers && !s.IsMulticast() && !s.IsUnspecified() && !s.IsLoopback() {
		a.DNS = append(a.DNS, announcedServer{s, until})
		slices.SortFunc(a.DNS, func(x, y announcedServer) int { return x.Address.Compare(y.Address) })
	}
}

func (a *announced) domain(name string, until, now time.Duration) {
	a.Search = slices.DeleteFunc(a.Search, func(o announcedDomain) bool { return o.Name == name })
	if until > now && len(appendDomain(nil, name)) == 1 && len(a.Search) < maxServers {
		a.Search = append(a.Search, announcedDomain{name, until})
		slices.SortFunc(a.Search, func(x, y announcedDomain) int { return strings.Compare(x.Name, y.Name) })
	}
}

// expire forgets what ended, and returns when the next entry ends, 0: none.
func (a *announced) expire(now time.Duration) (next time.Duration) {
	a.DNS = slices.DeleteFunc(a.DNS, func(o announcedServer) bool { return o.Until <= now })
	a.Search = slices.DeleteFunc(a.Search, func(o announcedDomain) bool { return o.Until <= now })
	for _, o := range a.DNS {
		next = sooner(next, o.Until)
	}
	for _, o := range a.Search {
		next = sooner(next, o.Until)
	}
	return next
}

// sooner returns the earlier of two times, of which 0 is never.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// domains reads names in DNS form, without compression, padded by zeros.
func domains(b []byte) []string {
	var out []string
	var labels []string
	for len(b) > 0 && len(out) < maxServers {
		n := int(b[0])
		if n == 0 {
			if len(labels) > 0 {
				out = append(out, strings.ToLower(strings.Join(labels, ".")))
			}
			labels, b = nil, b[1:]
			continue
		}
		if n > 63 || n >= len(b) {
			break
		}
		labels, b = append(labels, string(b[1:1+n])), b[1+n:]
	}
	return out
}
