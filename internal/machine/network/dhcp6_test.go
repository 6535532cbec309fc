// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"wherry.example/wherry/config"
)

// only6 is a machine that gets no IPv4 address.
func only6() config.Machine {
	no := false
	return config.Machine{Network: config.Network{Interfaces: []config.Interface{{Match: "eth0", DHCP: &no}}}}
}

// managed6 has routers say that addresses come by DHCPv6 alone, as clouds do.
var managed6 = []string{
	"--enable-ra", "--dhcp-range=fd09::100,fd09::101,64,2h", "--dhcp-option=option6:dns-server,[fd09::53]",
	"--dhcp-option=option6:domain-search,six.example", "--dhcp-option=option6:ntp-server,[fd09::123]", "--dhcp-authoritative",
}

// address6 is the machine's address in the managed range, or not valid.
func (x *machine) address6() netip.Prefix {
	s := x.State()
	for _, l := range s.Links {
		for _, a := range l.Addresses {
			if p := netip.MustParsePrefix(a); p.Bits() == 128 && p.Addr().Is6() {
				return p
			}
		}
	}
	return netip.Prefix{}
}

func TestManagedAddress(t *testing.T) {
	w := newWire(t)
	w.serve("fd09::1/64", managed6...)
	dir := t.TempDir()
	start := time.Now()
	x := w.boot(dir, only6())
	w.await("the address", func() bool { return x.address6().IsValid() && x.State().Links[0].Gateway != "" })
	t.Logf("address %s %s after the start of Run, with the link down before", x.address6(), time.Since(start))
	s := x.State()
	if l := s.Links[0]; l.Method != "dhcp" || !s.Online() || len(l.Addresses) != 1 {
		t.Errorf("link: %v", l)
	}
	if want := []netip.Addr{netip.MustParseAddr("fd09::123")}; !slices.Equal(s.TimeServers, want) {
		t.Errorf("time servers %v", s.TimeServers)
	}
	if got := x.resolvConf(); !strings.Contains(got, "search six.example\nnameserver fd09::53\n") {
		t.Errorf("resolv.conf:\n%s", got)
	}
	w.reach(x.address6().Addr().String())

	// The next wherryd goes on with the lease and asks nobody, until it is due.
	own := x.address6()
	x.stop()
	w.forget()
	y := w.boot(dir, only6())
	w.await("the adopted lease", func() bool { return y.address6() == own })
	time.Sleep(500 * time.Millisecond)
	y.stop()
	for _, m := range []string{"DHCPSOLICIT", "DHCPREQUEST", "DHCPRENEW", "DHCPREBIND"} {
		if w.said(m) > 0 {
			t.Errorf("the second wherryd asked the server: %s", m)
		}
	}
	for due, message := range map[time.Duration]string{61 * time.Minute: "DHCPRENEW", 110 * time.Minute: "DHCPREBIND"} {
		w.forget()
		age(t, filepath.Join(dir, "network", "lease6-eth0.json"), due)
		z := w.boot(dir, only6())
		w.await(message, func() bool { return w.said(message) > 0 && w.said("DHCPREPLY") > 0 && z.address6() == own })
		if w.said("DHCPSOLICIT") > 0 {
			t.Error("the lease was asked for anew")
		}
		z.stop()
	}
}

// age makes a lease older.
func age(t *testing.T, file string, by time.Duration) {
	t.Helper()
	var l Lease
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &l)
	}
	if err != nil {
		t.Fatal(err)
	}
	l.Obtained = sinceBoot() - by
	if data, err = json.Marshal(l); err == nil {
		err = os.WriteFile(file, data, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestServersOnly asks for name and time servers where routers give the addresses.
func TestServersOnly(t *testing.T) {
	w := newWire(t)
	w.serve("fd09::1/64", "--enable-ra", "--dhcp-range=fd09::,ra-stateless", "--dhcp-option=option6:dns-server,[fd09::53]", "--dhcp-option=option6:ntp-server,[fd09::123]")
	x := w.boot(t.TempDir(), only6())
	w.await("the time server", func() bool {
		s := x.State()
		return len(s.TimeServers) == 1 && s.TimeServers[0].String() == "fd09::123" && s.Links[0].Method == "slaac"
	})
	if w.said("DHCPINFORMATION-REQUEST") != 1 || w.said("DHCPSOLICIT") > 0 {
		t.Errorf("the server said:\n%s", strings.Join(w.log, "\n"))
	}
	// Routers that take their word back end it.
	w.serve("fd09::1/64", "--enable-ra", "--dhcp-range=fd09::,ra-only")
	w.await("the end", func() bool { return len(x.State().TimeServers) == 0 })
}

// TestTaken6 is given an address that another device has: the kernel finds it out.
func TestTaken6(t *testing.T) {
	hurry(t)
	w := newWire(t)
	w.serve("fd09::1/64 fd09::100/64", append(managed6, "--dhcp-host=02:00:00:00:00:10,[fd09::100]")...)
	x := w.boot(t.TempDir(), only6())
	w.await("the refusal", func() bool { return w.said("DHCPDECLINE") == 1 })
	w.await("another address", func() bool { return x.address6() == netip.MustParsePrefix("fd09::101/128") })
}

// TestCarrier6 unplugs and plugs again: the lease is confirmed, not asked for anew.
func TestCarrier6(t *testing.T) {
	w := newWire(t)
	w.serve("fd09::1/64", managed6...)
	x := w.boot(t.TempDir(), only6())
	w.await("the address", func() bool { return x.address6().IsValid() })
	own := x.address6()
	w.in("ip", "link", "set", "up0", "down")
	w.await("the loss of the carrier", func() bool { return !x.State().Links[0].Up })
	w.forget()
	w.in("ip", "link", "set", "up0", "up")
	w.serve("fd09::1/64", managed6...) // the kernel took the server's address with the link
	w.await("the confirmation", func() bool { return w.said("DHCPREPLY") > 0 && x.address6() == own })
	if w.said("DHCPSOLICIT") > 0 {
		t.Error("the lease was asked for anew")
	}
}

func TestNewLease6(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 16}
	server := dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac})
	ia := func(options ...dhcpv6.Option) dhcpv6.Option {
		return &dhcpv6.OptIANA{Options: dhcpv6.IdentityOptions{Options: options}}
	}
	at := func(a string, valid time.Duration) dhcpv6.Option {
		return &dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(a), ValidLifetime: valid, PreferredLifetime: valid}
	}
	for _, tc := range []struct {
		name    string
		options []dhcpv6.Option
		want    string // an address, or "" for an error
	}{
		{"good", []dhcpv6.Option{server, ia(at("fd09::5", time.Hour))}, "fd09::5/128"},
		{"the second is good", []dhcpv6.Option{server, ia(at("fd09::4", 0), at("fd09::5", time.Hour))}, "fd09::5/128"},
		{"no server", []dhcpv6.Option{ia(at("fd09::5", time.Hour))}, ""},
		{"no association", []dhcpv6.Option{server}, ""},
		{"no address", []dhcpv6.Option{server, ia()}, ""},
		{"over", []dhcpv6.Option{server, ia(at("fd09::5", 0))}, ""},
		{"multicast", []dhcpv6.Option{server, ia(at("ff02::1", time.Hour))}, ""},
		{"of the link alone", []dhcpv6.Option{server, ia(at("fe80::1", time.Hour))}, ""},
		{"IPv4", []dhcpv6.Option{server, ia(at("192.0.2.1", time.Hour))}, ""},
		{"none left", []dhcpv6.Option{server, ia(&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoAddrsAvail})}, ""},
		{"refused", []dhcpv6.Option{server, ia(at("fd09::5", time.Hour)), &dhcpv6.OptStatusCode{StatusCode: iana.StatusUnspecFail}}, ""},
	} {
		m := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply}
		for _, o := range tc.options {
			m.AddOption(o)
		}
		l, err := newLease6(m, mac, true, time.Minute)
		if (err == nil) != (tc.want != "") || err == nil && l.Address.String() != tc.want {
			t.Errorf("%s: %+v, %v", tc.name, l, err)
		}
	}
}

// FuzzLease6 wants times in order and bounds kept, whatever a server says.
func FuzzLease6(f *testing.F) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 16}
	m := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply}
	m.AddOption(dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac}))
	m.AddOption(dhcpv6.OptDNS(net.ParseIP("fd09::53")))
	m.AddOption(&dhcpv6.OptIANA{T1: 5, T2: 3, Options: dhcpv6.IdentityOptions{Options: []dhcpv6.Option{&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP("fd09::5"), ValidLifetime: time.Hour}}}})
	f.Add(m.ToBytes(), true)
	f.Add(m.ToBytes(), false)
	f.Fuzz(func(t *testing.T, data []byte, address bool) {
		m, err := dhcpv6.MessageFromBytes(data)
		if err != nil {
			return
		}
		l, err := newLease6(m, mac, address, time.Minute)
		if err != nil {
			return
		}
		if l.Renew <= 0 || l.Renew >= l.Rebind || l.Rebind >= l.Expires || len(l.DNS) > maxServers || len(l.Search) > maxServers {
			t.Errorf("%+v", l)
		}
	})
}
