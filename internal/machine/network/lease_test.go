// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/json"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

func ack(t *testing.T, address string, options ...dhcpv4.Option) *dhcpv4.DHCPv4 {
	t.Helper()
	modifiers := []dhcpv4.Modifier{
		dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 1}), dhcpv4.WithYourIP(net.ParseIP(address)),
		dhcpv4.WithServerIP(net.ParseIP("10.0.0.2")), dhcpv4.WithMessageType(dhcpv4.MessageTypeAck),
	}
	for _, o := range options {
		modifiers = append(modifiers, dhcpv4.WithOption(o))
	}
	m, err := dhcpv4.New(modifiers...)
	if err != nil {
		t.Fatal(err)
	}
	again, err := dhcpv4.FromBytes(m.ToBytes())
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func ips(list ...string) (out []net.IP) {
	for _, s := range list {
		out = append(out, net.ParseIP(s))
	}
	return out
}

func TestNewLease(t *testing.T) {
	mask := dhcpv4.OptSubnetMask(net.CIDRMask(24, 32))
	for _, tc := range []struct {
		name string
		ack  *dhcpv4.DHCPv4
		want Lease
		err  string
	}{
		{"plain", ack(t, "10.0.0.5", mask, dhcpv4.OptRouter(ips("10.0.0.1")...), dhcpv4.OptIPAddressLeaseTime(time.Hour)), Lease{
			Address: prefix("10.0.0.5/24"), Routes: []LeaseRoute{{default4, netip.MustParseAddr("10.0.0.1")}},
			Expires: time.Hour, Renew: 30 * time.Minute, Rebind: 52*time.Minute + 30*time.Second,
		}, ""},
		{"times in disorder", ack(t, "10.0.0.5", mask, dhcpv4.OptIPAddressLeaseTime(100*time.Second), dhcpv4.OptRenewTimeValue(time.Hour)), Lease{
			Address: prefix("10.0.0.5/24"), Expires: 100 * time.Second, Renew: 50 * time.Second, Rebind: 87500 * time.Millisecond,
		}, ""},
		{"a lease of nothing", ack(t, "10.0.0.5", mask, dhcpv4.OptIPAddressLeaseTime(0)), Lease{
			Address: prefix("10.0.0.5/24"), Expires: minLease, Renew: minLease / 2, Rebind: minLease * 7 / 8,
		}, ""},
		{"without mask and time", ack(t, "10.0.0.5"), Lease{Address: prefix("10.0.0.5/8"), Expires: time.Hour, Renew: 30 * time.Minute, Rebind: 52*time.Minute + 30*time.Second}, ""},
		{"hostile texts", ack(t, "10.0.0.5", mask, dhcpv4.OptHostName("a\nb; reboot"), dhcpv4.OptDomainName("x\nnameserver 6.6.6.6"), dhcpv4.OptDNS(ips("0.0.0.0", "224.0.0.1", "127.0.0.1", "10.0.0.9")...)), Lease{
			Address: prefix("10.0.0.5/24"), DNS: []netip.Addr{netip.MustParseAddr("10.0.0.9")}, Search: []string{"x", "nameserver", "6.6.6.6"},
			Expires: time.Hour, Renew: 30 * time.Minute, Rebind: 52*time.Minute + 30*time.Second,
		}, ""},
		{"broken routes", ack(t, "10.0.0.5", mask, dhcpv4.OptGeneric(dhcpv4.OptionClasslessStaticRoute, []byte{33, 1, 2, 3}), dhcpv4.OptRouter(ips("10.0.0.1")...)), Lease{
			Address: prefix("10.0.0.5/24"), Expires: time.Hour, Renew: 30 * time.Minute, Rebind: 52*time.Minute + 30*time.Second,
		}, ""},
		{"no address", ack(t, "0.0.0.0", mask), Lease{}, "offers the address 0.0.0.0"},
		{"loopback", ack(t, "127.0.0.1", mask), Lease{}, "offers the address 127.0.0.1"},
		{"empty mask", ack(t, "10.0.0.5", dhcpv4.OptSubnetMask(net.IPMask{0, 0, 0, 0})), Lease{}, "without a network"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, err := newLease(tc.ack, 7*time.Second)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			tc.want.MAC, tc.want.Obtained = "02:00:00:00:00:01", 7*time.Second
			compare := []cmp.Option{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty()}
			if d := cmp.Diff(tc.want, *l, compare...); d != "" {
				t.Error(d)
			}
			data, err := json.Marshal(l)
			if err != nil {
				t.Fatal(err)
			}
			var back Lease
			if err := json.Unmarshal(data, &back); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(*l, back, compare...); d != "" {
				t.Errorf("the file changes the lease:\n%s", d)
			}
		})
	}
}

func FuzzNewLease(f *testing.F) {
	f.Add([]byte{53, 1, 5, 1, 4, 255, 255, 255, 0, 121, 5, 0, 10, 0, 0, 1, 255})
	f.Add([]byte{119, 4, 1, 'a', 0xc0, 0, 26, 2, 0, 1, 255})
	f.Fuzz(func(t *testing.T, options []byte) {
		m, err := dhcpv4.New(dhcpv4.WithYourIP(net.IP{10, 0, 0, 5}), dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 1}))
		if err != nil {
			t.Fatal(err)
		}
		head := m.ToBytes()[:240]
		got, err := dhcpv4.FromBytes(append(head, options...))
		if err != nil {
			return
		}
		l, err := newLease(got, 0)
		if err != nil {
			return
		}
		if l.Renew <= 0 || l.Renew >= l.Rebind || l.Rebind >= l.Expires || len(l.Routes) > maxRoutes || len(l.DNS) > maxServers {
			t.Errorf("lease %+v", l)
		}
		s := State{}
		s.addLease(l)
		for line := range strings.Lines(string(resolvConf(s))) {
			if !strings.HasPrefix(line, "search ") && !strings.HasPrefix(line, "nameserver ") && !strings.HasPrefix(line, "# ") {
				t.Errorf("resolv.conf has the line %q", line)
			}
		}
	})
}

// rdnss and dnssl build options of router announcements.
func rdnss(seconds byte, servers ...string) []byte {
	out := []byte{optionRDNSS, byte(1 + 2*len(servers)), 0, 0, 0, 0, 0, seconds}
	for _, s := range servers {
		a := netip.MustParseAddr(s).As16()
		out = append(out, a[:]...)
	}
	return out
}

func TestAnnounced(t *testing.T) {
	var a announced
	dnssl := append([]byte{optionDNSSL, 3, 0, 0, 0, 0, 0, 60}, "\x03six\x07example\x00\x01b\x00\x00"...)
	a.merge(append(rdnss(60, "2001:db8::2", "2001:db8::1", "ff02::1", "::"), dnssl...), time.Second)
	want := announced{
		DNS:    []announcedServer{{netip.MustParseAddr("2001:db8::1"), 61 * time.Second}, {netip.MustParseAddr("2001:db8::2"), 61 * time.Second}},
		Search: []announcedDomain{{"b", 61 * time.Second}, {"six.example", 61 * time.Second}},
	}
	addresses := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if d := cmp.Diff(want, a, addresses); d != "" {
		t.Error(d)
	}
	a.merge(rdnss(0, "2001:db8::1"), 2*time.Second)
	if next := a.expire(3 * time.Second); next != 61*time.Second || len(a.DNS) != 1 {
		t.Errorf("next %s, servers %v", next, a.DNS)
	}
	if next := a.expire(61 * time.Second); next != 0 || len(a.DNS)+len(a.Search) > 0 {
		t.Errorf("next %s, left %+v", next, a)
	}
}

func FuzzAnnounced(f *testing.F) {
	f.Add(rdnss(60, "2001:db8::1"))
	f.Add([]byte{optionDNSSL, 2, 0, 0, 0, 0, 0, 60, 63, 'a', 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, options []byte) {
		var a announced
		for range 3 {
			a.merge(options, time.Second)
		}
		if len(a.DNS) > maxServers || len(a.Search) > maxServers {
			t.Errorf("%d servers, %d domains", len(a.DNS), len(a.Search))
		}
		s := State{}
		s.addAnnounced(&uplink{announced: a})
		if strings.Count(string(resolvConf(s)), "\n") > 2+maxResolvers {
			t.Errorf("resolv.conf:\n%s", resolvConf(s))
		}
	})
}
