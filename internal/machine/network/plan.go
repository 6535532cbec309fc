// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/linux/netlink"
)

// observed is what the kernel has of one link.
type observed struct {
	netlink.Link
	Addresses []netlink.Address
	Routes    []netlink.Route
	Settings  map[setting]string
	Router    netlink.Router
}

// wanted is what one link should be.
type wanted struct {
	Config config.Interface // of the entry that matches, or zero
	Lease  *Lease           // by DHCP for IPv4
	Lease6 *Lease           // by DHCP for IPv6
	// Now is the time since boot, from which a lease's remaining life counts.
	Now time.Duration
}

// setting is a file below /proc/sys/net, with IFACE for the link's name.
type setting string

const (
	disableIPv6       setting = "ipv6/conf/IFACE/disable_ipv6"
	acceptRouters     setting = "ipv6/conf/IFACE/accept_ra"
	autoconf          setting = "ipv6/conf/IFACE/autoconf"
	promoteSecondary  setting = "ipv4/conf/IFACE/promote_secondaries"
	dropRedirects     setting = "ipv4/conf/IFACE/accept_redirects"
	dropIPv6Redirects setting = "ipv6/conf/IFACE/accept_redirects"
)

// settings are all, in the order in which they are set.
var settings = []setting{promoteSecondary, dropRedirects, dropIPv6Redirects, acceptRouters, autoconf, disableIPv6}

// step is one change of the kernel's state. Exactly one field besides the link is set.
type step struct {
	Link    string
	Index   int
	Setting setting
	Value   string
	MTU     int
	Up      bool
	// Add and Remove are addresses, Route and Unroute routes.
	Add, Remove    *netlink.Address
	Route, Unroute *netlink.Route
}

func (s step) String() string {
	switch {
	case s.Setting != "":
		return fmt.Sprintf("set %s to %s", strings.ReplaceAll(string(s.Setting), "IFACE", s.Link), s.Value)
	case s.MTU != 0:
		return fmt.Sprintf("set the MTU of %s to %d", s.Link, s.MTU)
	case s.Up:
		return "set " + s.Link + " up"
	case s.Add != nil:
		return fmt.Sprintf("set address %s on %s", s.Add.Prefix, s.Link)
	case s.Remove != nil:
		return fmt.Sprintf("remove address %s from %s", s.Remove.Prefix, s.Link)
	case s.Route != nil:
		return fmt.Sprintf("set route %s on %s", s.Route, s.Link)
	}
	return fmt.Sprintf("remove route %s from %s", s.Unroute, s.Link)
}

// managed says whether a link is the machine's own way out, and not one that
// container networks or others made. A veth counts only as eth…: so it is
// called where the machine itself runs in a container.
func managed(l netlink.Link) bool {
	if l.Loopback || !l.Ethernet {
		return false
	}
	return l.Kind == "" || l.Kind == "veth" && strings.HasPrefix(l.Name, "eth")
}

// entryFor returns the entry that matches a link. A MAC address or a name
// wins over a glob; among equals the first.
func entryFor(l netlink.Link, entries []config.Interface) config.Interface {
	glob := -1
	for i, e := range entries {
		if mac, err := net.ParseMAC(e.Match); err == nil && mac.String() == l.MAC.String() || e.Match == l.Name {
			return e
		}
		if ok, err := path.Match(e.Match, l.Name); glob < 0 && err == nil && ok {
			glob = i
		}
	}
	if glob >= 0 {
		return entries[glob]
	}
	return config.Interface{}
}

// plan returns the steps from what is to what should be; none when it is so already.
func plan(o observed, w wanted) []step {
	var steps []step
	add := func(s step) {
		s.Link, s.Index = o.Name, o.Index
		steps = append(steps, s)
	}
	want := wantedSettings(w.Config.IPv6)
	for _, s := range settings {
		if now, ok := o.Settings[s]; ok && now != want[s] {
			add(step{Setting: s, Value: want[s]})
		}
	}
	if mtu := wantedMTU(w); mtu != 0 && mtu != o.MTU {
		add(step{MTU: mtu})
	}
	if !o.Up {
		add(step{Up: true})
	}
	planAddresses(o, wantedAddresses(o, w), add)
	planRoutes(o, wantedRoutes(o, w), add)
	return steps
}

// wantedSettings makes a link listen to routers although the machine forwards (2).
func wantedSettings(ipv6 string) map[setting]string {
	out := map[setting]string{
		promoteSecondary: "1", dropRedirects: "0", dropIPv6Redirects: "0",
		disableIPv6: "0", acceptRouters: "2", autoconf: "1",
	}
	switch ipv6 {
	case config.IPv6Static:
		out[acceptRouters], out[autoconf] = "0", "0"
	case config.IPv6Off:
		out[acceptRouters], out[autoconf], out[disableIPv6] = "0", "0", "1"
	}
	return out
}

func wantedMTU(w wanted) int {
	if w.Config.MTU == 0 && w.Lease != nil {
		return w.Lease.MTU
	}
	return w.Config.MTU
}

func wantedAddresses(o observed, w wanted) []netlink.Address {
	var out []netlink.Address
	for _, s := range w.Config.Addresses {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, netlink.Address{Link: o.Index, Prefix: p})
		}
	}
	for _, l := range []*Lease{w.Lease, w.Lease6} {
		if l != nil && l.Address.IsValid() && l.left(w.Now) > 0 && !hasAddress(out, l.Address.Addr()) {
			out = append(out, netlink.Address{Link: o.Index, Prefix: l.Address, Valid: l.left(w.Now)})
		}
	}
	return out
}

func hasAddress(list []netlink.Address, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(x netlink.Address) bool { return x.Prefix.Addr() == a })
}

// planAddresses adds before it removes, so that a machine that moves within a
// network is never without an address.
func planAddresses(o observed, want []netlink.Address, add func(step)) {
	for _, a := range want {
		i := slices.IndexFunc(o.Addresses, func(x netlink.Address) bool { return x.Prefix == a.Prefix })
		if i < 0 || !sameLife(o.Addresses[i].Valid, a.Valid) {
			add(step{Add: &a})
		}
	}
	for _, a := range o.Addresses {
		kept := slices.ContainsFunc(want, func(x netlink.Address) bool { return x.Prefix == a.Prefix })
		if !kept && ours(a) {
			add(step{Remove: &a})
		}
	}
}

// sameLife compares remaining lives; the kernel counts whole seconds.
func sameLife(a, b time.Duration) bool {
	if a == 0 || b == 0 {
		return a == b
	}
	return (a - b).Abs() <= 5*time.Second
}

// ours says that nobody but us can have set an address: not the kernel, by itself or for a router.
func ours(a netlink.Address) bool {
	switch a.Proto {
	case netlink.ProtoKernelLoopback, netlink.ProtoKernelRouter, netlink.ProtoKernelLinkLocal:
		return false
	}
	return !a.Prefix.Addr().IsLinkLocalUnicast() || a.Prefix.Addr().Is4()
}

// Metrics: what the document says wins over DHCP; among links the first wins.
const (
	staticMetric = 512
	leaseMetric  = 1024
	// defaultMetric6 is what the kernel makes of metric 0 in IPv6.
	defaultMetric6 = 1024
)

func wantedRoutes(o observed, w wanted) []netlink.Route {
	var out []netlink.Route
	add := func(to netip.Prefix, via netip.Addr, metric, proto int) {
		r := netlink.Route{Link: o.Index, To: to, Via: via, Metric: metric, Proto: proto}
		if to.Addr().Is6() && metric == 0 {
			r.Metric = defaultMetric6
		}
		r.OnLink = via.Is4() && !reaches(wantedAddresses(o, w), via)
		same := func(x netlink.Route) bool { return x.To == r.To && x.Metric == r.Metric }
		if !slices.ContainsFunc(out, same) {
			out = append(out, r)
		}
	}
	for to, gateway := range map[netip.Prefix]string{default4: w.Config.Gateway, default6: w.Config.Gateway6} {
		if via, err := netip.ParseAddr(gateway); err == nil {
			add(to, via, staticMetric+o.Index, netlink.RouteStatic)
		}
	}
	for _, r := range w.Config.Routes {
		to, err := netip.ParsePrefix(r.To)
		if err != nil {
			continue
		}
		via, _ := netip.ParseAddr(r.Via)
		add(to, via, r.Metric, netlink.RouteStatic)
	}
	if l := w.Lease; l != nil && l.left(w.Now) > 0 {
		for _, r := range l.Routes {
			add(r.To, r.Via, leaseMetric+o.Index, netlink.RouteDHCP)
		}
	}
	// A route on the link comes before those through gateways that it may lead to.
	slices.SortStableFunc(out, func(a, b netlink.Route) int {
		if a.Via.IsValid() != b.Via.IsValid() {
			if a.Via.IsValid() {
				return 1
			}
			return -1
		}
		return a.To.Addr().Compare(b.To.Addr())
	})
	return out
}

// reaches says whether an address is in a network of the link.
func reaches(addresses []netlink.Address, via netip.Addr) bool {
	return slices.ContainsFunc(addresses, func(a netlink.Address) bool { return a.Prefix.Contains(via) })
}

// planRoutes touches only routes that say that we set them. The kernel takes
// no route on a link that is not up and running, so there they wait.
func planRoutes(o observed, want []netlink.Route, add func(step)) {
	for _, r := range o.Routes {
		kept := slices.ContainsFunc(want, func(x netlink.Route) bool { return sameRoute(x, r) })
		if !kept && (r.Proto == netlink.RouteStatic || r.Proto == netlink.RouteDHCP) {
			add(step{Unroute: &r})
		}
	}
	for _, r := range want {
		set := slices.ContainsFunc(o.Routes, func(x netlink.Route) bool { return sameRoute(x, r) })
		if !set && (o.Carrier || r.To.Addr().Is4() && o.Up) {
			add(step{Route: &r})
		}
	}
}

func sameRoute(a, b netlink.Route) bool {
	return a.To == b.To && a.Via == b.Via && a.Metric == b.Metric && a.Proto == b.Proto
}
