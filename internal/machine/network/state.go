// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/atomicfile"
	"wherry.example/wherry/internal/linux/netlink"
)

const (
	boardLine = "network"
	// DefaultHostName is the name of a machine that nobody named.
	DefaultHostName = "wherry"
	dnsPort         = 53
)

// State is what the network has come to. It is shared: nobody changes it.
type State struct {
	HostName string
	Links    []*wherryv1.Link
	// Nameservers are in the order of preference: configured, from DHCP, announced by routers.
	Nameservers []netip.AddrPort
	Search      []string
	// TimeServers are those that DHCP named.
	TimeServers []netip.Addr
}

// Online says that some link has an address that is not of the link alone.
func (s State) Online() bool {
	return slices.ContainsFunc(s.Links, func(l *wherryv1.Link) bool { return l.Up && len(l.Addresses) > 0 })
}

// State returns the newest state.
func (n *Network) State() State {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state
}

// Watch returns a channel that has the state at once and each newer one later
// (those in between may be missed), until cancel is called.
func (n *Network) Watch() (states <-chan State, cancel func()) {
	c := make(chan State, 1)
	n.mu.Lock()
	defer n.mu.Unlock()
	c <- n.state
	n.watchers[c] = struct{}{}
	return c, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.watchers, c)
	}
}

// tell writes host name and resolv.conf, and passes the state on when it changed.
func (n *Network) tell() {
	s := n.collect()
	if err := n.setHostName(s.HostName); err != nil {
		n.o.Log.Warn("network", "error", err)
	}
	if err := writeResolvConf(filepath.Join(n.o.RunDir, "resolv.conf"), s); err != nil {
		n.o.Log.Warn("network", "error", err)
	}
	n.o.Board.Set(boardLine, s.Online(), n.summary(s))
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state.equal(s) {
		return
	}
	n.state = s
	for c := range n.watchers {
		select {
		case <-c:
		default:
		}
		c <- s
	}
}

func (s State) equal(o State) bool {
	return s.HostName == o.HostName && slices.Equal(s.Nameservers, o.Nameservers) && slices.Equal(s.Search, o.Search) &&
		slices.Equal(s.TimeServers, o.TimeServers) &&
		slices.EqualFunc(s.Links, o.Links, func(a, b *wherryv1.Link) bool { return proto.Equal(a, b) })
}

func (n *Network) setHostName(name string) error {
	if name == n.hostName {
		return nil
	}
	if err := n.o.SetHostName(name); err != nil {
		return fmt.Errorf("set the host name to %q: %w", name, err)
	}
	n.hostName = name
	return nil
}

// collect makes the state of the links, in the order of their indexes.
func (n *Network) collect() State {
	s := State{HostName: n.machine.Name}
	for _, d := range n.machine.Network.Search {
		s.Search = appendDomain(s.Search, d)
	}
	for _, text := range n.machine.Network.Nameservers {
		if a, err := netip.ParseAddr(text); err == nil {
			s.addServer(a)
		}
	}
	indexes := slices.Sorted(maps.Keys(n.links))
	for _, i := range indexes {
		u := n.links[i]
		s.Links = append(s.Links, u.describe())
		for _, t := range u.tenancies() {
			if t.lease != nil {
				s.addLease(t.lease)
			}
		}
	}
	for _, i := range indexes {
		s.addAnnounced(n.links[i])
	}
	if s.HostName == "" {
		s.HostName = DefaultHostName
	}
	return s
}

func (s *State) addLease(l *Lease) {
	if s.HostName == "" {
		s.HostName = l.Name
	}
	for _, a := range l.DNS {
		s.addServer(a)
	}
	for _, d := range l.Search {
		s.Search = appendDomain(s.Search, d)
	}
	for _, a := range l.NTP {
		if !slices.Contains(s.TimeServers, a) {
			s.TimeServers = append(s.TimeServers, a)
		}
	}
}

func (s *State) addAnnounced(u *uplink) {
	for _, o := range u.announced.DNS {
		a := o.Address
		if a.IsLinkLocalUnicast() {
			a = a.WithZone(u.Name)
		}
		s.addServer(a)
	}
	for _, d := range u.announced.Search {
		s.Search = appendDomain(s.Search, d.Name)
	}
}

func (s *State) addServer(a netip.Addr) {
	if server := netip.AddrPortFrom(a, dnsPort); !slices.Contains(s.Nameservers, server) {
		s.Nameservers = append(s.Nameservers, server)
	}
}

func (u *uplink) describe() *wherryv1.Link {
	l := &wherryv1.Link{Name: u.Name, Mac: u.MAC.String(), Up: u.Carrier, Method: "none"}
	for _, a := range u.Addresses {
		if a.Tentative || a.Prefix.Addr().IsLinkLocalUnicast() {
			continue
		}
		l.Addresses = append(l.Addresses, a.Prefix.String())
		if a.Proto == netlink.ProtoKernelRouter {
			l.Method = "slaac"
		}
	}
	switch {
	case len(u.entry.Addresses) > 0:
		l.Method = "static"
	case u.v4.lease != nil, u.v6.lease != nil && u.v6.lease.Address.IsValid():
		l.Method = "dhcp"
	}
	best := netlink.Route{}
	for _, r := range u.Routes {
		better := !best.Via.IsValid() || best.To.Addr().Is6() && r.To.Addr().Is4()
		if r.To.Bits() == 0 && r.Via.IsValid() && better {
			best = r
		}
	}
	if best.Via.IsValid() {
		l.Gateway = best.Via.String()
	}
	return l
}

// summary is the board's line.
func (n *Network) summary(s State) string {
	var parts []string
	for _, l := range s.Links {
		switch {
		case !l.Up:
			parts = append(parts, l.Name+": no signal, is the cable in?")
		case len(l.Addresses) == 0:
			parts = append(parts, l.Name+": waits for an address"+n.because(l.Name))
		default:
			parts = append(parts, l.Name+" "+strings.Join(l.Addresses, " "))
		}
	}
	if len(parts) == 0 {
		return "there is no network device"
	}
	if n.refused != "" {
		parts = append(parts, n.refused)
	}
	return strings.Join(parts, ", ")
}

// because says why a link has no address, when somebody knows.
func (n *Network) because(link string) string {
	for _, u := range n.links {
		for _, t := range u.tenancies() {
			if u.Name == link && t.problem != "" {
				return " (" + t.problem + ")"
			}
		}
	}
	return ""
}

// maxResolvers is how many a resolver reads; the rest would only mislead.
const maxResolvers = 3

func resolvConf(s State) []byte {
	var b strings.Builder
	b.WriteString("# Written by wherryd.\n")
	if len(s.Search) > 0 {
		b.WriteString("search " + strings.Join(s.Search, " ") + "\n")
	}
	for _, server := range s.Nameservers[:min(len(s.Nameservers), maxResolvers)] {
		b.WriteString("nameserver " + server.Addr().String() + "\n")
	}
	return []byte(b.String())
}

// writeResolvConf writes only what changes: readers watch the file's time.
func writeResolvConf(path string, s State) error {
	want := resolvConf(s)
	if have, err := os.ReadFile(path); err == nil && string(have) == string(want) {
		return nil
	}
	return atomicfile.Write(path, want, 0o644)
}
