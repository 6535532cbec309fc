// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"maps"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/linux/netlink"
)

// ready is a link with all settings made, up, and without addresses.
func ready() observed {
	return observed{
		Link:     netlink.Link{Index: 2, Name: "eth0", Ethernet: true, Up: true, Carrier: true, MTU: 1500},
		Settings: wantedSettings(""),
	}
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestPlan(t *testing.T) {
	lease := &Lease{Address: prefix("10.0.0.5/24"), Routes: []LeaseRoute{{default4, netip.MustParseAddr("10.0.0.1")}}, Expires: time.Hour}
	leased := func(o observed) observed {
		o.Addresses = []netlink.Address{{Link: 2, Prefix: lease.Address, Valid: time.Hour}}
		o.Routes = []netlink.Route{{Link: 2, To: default4, Via: netip.MustParseAddr("10.0.0.1"), Metric: 1026, Proto: netlink.RouteDHCP}}
		return o
	}
	for _, tc := range []struct {
		name string
		o    func(*observed)
		w    wanted
		want []string
	}{
		{"nothing to do", func(o *observed) {}, wanted{}, nil},
		{"new link", func(o *observed) {
			o.Up, o.Carrier = false, false
			o.Settings = map[setting]string{acceptRouters: "1", disableIPv6: "0"}
		}, wanted{}, []string{"set ipv6/conf/eth0/accept_ra to 2", "set eth0 up"}},
		{"without IPv6 in the kernel", func(o *observed) { o.Settings = map[setting]string{} }, wanted{}, nil},
		{"lease", func(o *observed) {}, wanted{Lease: lease},
			[]string{"set address 10.0.0.5/24 on eth0", "set route 0.0.0.0/0 via 10.0.0.1 metric 1026 on eth0"}},
		{"lease, set already", func(o *observed) { *o = leased(*o) }, wanted{Lease: lease}, nil},
		{"lease, renewed", func(o *observed) { *o = leased(*o); o.Addresses[0].Valid = time.Minute }, wanted{Lease: lease}, []string{"set address 10.0.0.5/24 on eth0"}},
		{"lease, expired", func(o *observed) { *o = leased(*o) }, wanted{Lease: lease, Now: 2 * time.Hour},
			[]string{"remove address 10.0.0.5/24 from eth0", "remove route 0.0.0.0/0 via 10.0.0.1 metric 1026 from eth0"}},
		{"lease lost", func(o *observed) { *o = leased(*o) }, wanted{},
			[]string{"remove address 10.0.0.5/24 from eth0", "remove route 0.0.0.0/0 via 10.0.0.1 metric 1026 from eth0"}},
		{"static instead", func(o *observed) { *o = leased(*o) }, wanted{Config: config.Interface{Addresses: []string{"10.0.0.9/24"}, Gateway: "10.0.0.1"}}, []string{
			"set address 10.0.0.9/24 on eth0", "remove address 10.0.0.5/24 from eth0",
			"remove route 0.0.0.0/0 via 10.0.0.1 metric 1026 from eth0", "set route 0.0.0.0/0 via 10.0.0.1 metric 514 on eth0",
		}},
		{"the kernel's own stay", func(o *observed) {
			o.Addresses = []netlink.Address{
				{Prefix: prefix("2001:db8::5/64"), Proto: netlink.ProtoKernelRouter}, {Prefix: prefix("fe80::1/64"), Proto: netlink.ProtoKernelLinkLocal},
				{Prefix: prefix("fe80::2/64")},
			}
			o.Routes = []netlink.Route{{To: default6, Via: netip.MustParseAddr("fe80::1"), Proto: 9, Metric: 1024}, {To: prefix("10.0.0.0/24"), Proto: 2}}
		}, wanted{}, nil},
		{"strangers go", func(o *observed) {
			o.Addresses = []netlink.Address{{Prefix: prefix("192.0.2.1/24")}, {Prefix: prefix("2001:db8::9/64")}}
		}, wanted{}, []string{"remove address 192.0.2.1/24 from eth0", "remove address 2001:db8::9/64 from eth0"}},
		{"no carrier", func(o *observed) { o.Carrier = false },
			wanted{Config: config.Interface{Addresses: []string{"2001:db8::9/64"}, Gateway6: "fe80::1", IPv6: config.IPv6Static}},
			[]string{"set ipv6/conf/eth0/accept_ra to 0", "set ipv6/conf/eth0/autoconf to 0", "set address 2001:db8::9/64 on eth0"}},
		{"MTU of the lease", func(o *observed) {}, wanted{Lease: &Lease{MTU: 1400}}, []string{"set the MTU of eth0 to 1400"}},
		{"MTU of the document", func(o *observed) {}, wanted{Config: config.Interface{MTU: 9000}, Lease: &Lease{MTU: 1400}}, []string{"set the MTU of eth0 to 9000"}},
		{"IPv6 off", func(o *observed) {}, wanted{Config: config.Interface{IPv6: config.IPv6Off}},
			[]string{"set ipv6/conf/eth0/accept_ra to 0", "set ipv6/conf/eth0/autoconf to 0", "set ipv6/conf/eth0/disable_ipv6 to 1"}},
		{"link routes first", func(o *observed) {}, wanted{Config: config.Interface{Addresses: []string{"192.0.2.9/32"}, Gateway: "192.0.2.1", Routes: []config.Route{{To: "192.0.2.1/32"}, {To: "2001:db8:1::/48", Via: "fe80::2"}}}},
			[]string{"set address 192.0.2.9/32 on eth0", "set route 192.0.2.1/32 metric 0 on eth0", "set route 0.0.0.0/0 via 192.0.2.1 metric 514 on eth0", "set route 2001:db8:1::/48 via fe80::2 metric 1024 on eth0"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := ready()
			o.Settings = maps.Clone(o.Settings)
			tc.o(&o)
			var got []string
			for _, s := range plan(o, tc.w) {
				got = append(got, s.String())
				if s.Route != nil && s.Route.Via == netip.MustParseAddr("192.0.2.1") && !s.Route.OnLink {
					t.Error("the gateway outside of the networks is not marked")
				}
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestEntryFor(t *testing.T) {
	entries := []config.Interface{{Match: "eth*", MTU: 1}, {Match: "eth0", MTU: 2}, {Match: "02-00-00-00-00-01", MTU: 3}, {Match: "*", MTU: 4}}
	mac, _ := net.ParseMAC("02:00:00:00:00:01")
	for _, tc := range []struct {
		link netlink.Link
		want int
	}{
		{netlink.Link{Name: "eth0"}, 2}, {netlink.Link{Name: "eth1"}, 1}, {netlink.Link{Name: "eth1", MAC: mac}, 3}, {netlink.Link{Name: "ens1"}, 4},
	} {
		if got := entryFor(tc.link, entries).MTU; got != tc.want {
			t.Errorf("%s %s: entry %d, want %d", tc.link.Name, tc.link.MAC, got, tc.want)
		}
	}
}
