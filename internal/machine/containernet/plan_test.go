// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package containernet

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/machine/status"
	"wherry.example/wherry/internal/netattach"
)

func allFree(uint8, netip.AddrPort) error { return nil }

func mustParsePort(t *testing.T, m *wherryv1.PortMapping) published {
	t.Helper()
	p, err := parsePort(m)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParsePort(t *testing.T) {
	for _, c := range []struct {
		in   *wherryv1.PortMapping
		want string // of the forwards; "!" and a part of the error
	}{
		{&wherryv1.PortMapping{HostPort: 8080, ContainerPort: 80}, "6 0.0.0.0:8080>10.0.0.2:80 6 [::]:8080>[fd00::2]:80"},
		{&wherryv1.PortMapping{HostPort: 53, ContainerPort: 53, Protocol: "udp", HostAddress: "0.0.0.0"}, "17 0.0.0.0:53>10.0.0.2:53"},
		{&wherryv1.PortMapping{HostPort: 53, ContainerPort: 53, HostAddress: "::1"}, "6 [::1]:53>[fd00::2]:53"},
		{&wherryv1.PortMapping{HostPort: 53, ContainerPort: 53, HostAddress: "::ffff:10.1.1.1"}, "6 10.1.1.1:53>10.0.0.2:53"},
		{&wherryv1.PortMapping{HostPort: 65535, ContainerPort: 1, HostAddress: "1.1.1.1"}, "6 1.1.1.1:65535>10.0.0.2:1"},
		{&wherryv1.PortMapping{HostPort: 1, ContainerPort: 8, Count: 2, HostAddress: "1.1.1.1"}, "6 1.1.1.1:1>10.0.0.2:8 6 1.1.1.1:2>10.0.0.2:9"},
		{&wherryv1.PortMapping{HostPort: 80}, "!container port 0"},
		{&wherryv1.PortMapping{HostPort: 65535, ContainerPort: 1, Count: 2}, "!65535"},
		{&wherryv1.PortMapping{ContainerPort: 65535, Count: 2}, "!65535"},
		{&wherryv1.PortMapping{HostPort: 65536, ContainerPort: 1}, "!65535"},
		{&wherryv1.PortMapping{ContainerPort: 1, Count: 1 << 31}, "!at most"},
		{&wherryv1.PortMapping{ContainerPort: 1, Protocol: "sctp"}, "!sctp"},
		{&wherryv1.PortMapping{ContainerPort: 1, HostAddress: "localhost"}, "!localhost"},
		{&wherryv1.PortMapping{ContainerPort: 1, HostAddress: "fe80::1%eth0"}, "!fe80"},
	} {
		p, err := parsePort(c.in)
		if part, bad := strings.CutPrefix(c.want, "!"); bad {
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), part) {
				t.Errorf("%v: %v, want an error with %q", c.in, err, part)
			}
			continue
		}
		var got []string
		for _, f := range p.forwards(netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")) {
			got = append(got, strings.Join([]string{map[uint8]string{6: "6", 17: "17"}[f.Protocol], f.Host.String() + ">" + f.Container.String()}, " "))
		}
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%v: %v, %v; want %s", c.in, got, err, c.want)
		}
	}
}

func TestPortTable(t *testing.T) {
	any80 := &wherryv1.PortMapping{HostPort: 80, ContainerPort: 80}
	for _, c := range []struct {
		name          string
		first, second *wherryv1.PortMapping
		clash         bool
	}{
		{"same", any80, any80, true},
		{"other protocol", any80, &wherryv1.PortMapping{HostPort: 80, ContainerPort: 80, Protocol: "udp"}, false},
		{"range over it", any80, &wherryv1.PortMapping{HostPort: 78, ContainerPort: 1, Count: 3}, true},
		{"range beside it", any80, &wherryv1.PortMapping{HostPort: 78, ContainerPort: 1, Count: 2}, false},
		{"all and one address", any80, &wherryv1.PortMapping{HostPort: 80, ContainerPort: 1, HostAddress: "10.0.0.1"}, true},
		{"one address and all", &wherryv1.PortMapping{HostPort: 80, ContainerPort: 1, HostAddress: "10.0.0.1"}, any80, true},
		{"two addresses", &wherryv1.PortMapping{HostPort: 80, ContainerPort: 1, HostAddress: "10.0.0.1"},
			&wherryv1.PortMapping{HostPort: 80, ContainerPort: 1, HostAddress: "10.0.0.2"}, false},
		{"two families", &wherryv1.PortMapping{HostPort: 80, ContainerPort: 1, HostAddress: "0.0.0.0"},
			&wherryv1.PortMapping{HostPort: 80, ContainerPort: 1, HostAddress: "::"}, false},
	} {
		var table portTable
		first, second := mustParsePort(t, c.first), mustParsePort(t, c.second)
		if err := table.claim(&first, "one", allFree); err != nil {
			t.Fatal(err)
		}
		err := table.claim(&second, "two", allFree)
		if (err != nil) != c.clash {
			t.Errorf("%s: %v, want a clash: %v", c.name, err, c.clash)
		}
		if c.clash && !strings.Contains(err.Error(), "container one") {
			t.Errorf("%s: the error does not say who has it: %v", c.name, err)
		}
		if err == nil {
			table.release(second)
		}
		table.release(first)
		if len(table.held) != 0 {
			t.Errorf("%s: left %v", c.name, table.held)
		}
	}
}

func TestPortTableChooses(t *testing.T) {
	var table portTable
	onlyFew := func(_ uint8, at netip.AddrPort) error {
		if p := at.Port(); p >= 40000 && p < 40006 {
			return nil
		}
		return errors.New("taken")
	}
	one := published{Protocol: 6, Hosts: []netip.Addr{netip.IPv4Unspecified()}, Container: 80, Count: 1}
	seen := map[uint16]bool{}
	for range 6 {
		p := one
		if err := table.claim(&p, "c", onlyFew); err != nil {
			t.Fatal(err)
		}
		if seen[p.Host] {
			t.Errorf("port %d twice", p.Host)
		}
		seen[p.Host] = true
	}
	p := one
	if err := table.claim(&p, "c", onlyFew); !errdefs.IsResourceExhausted(err) {
		t.Errorf("a seventh of six ports: %d, %v", p.Host, err)
	}
}

func newNetworks(t *testing.T) *Networks {
	t.Helper()
	n, err := New(Options{StateDir: t.TempDir(), RunDir: t.TempDir(), Board: &status.Board{}, Log: slog.New(slog.DiscardHandler),
		Reserved: map[uint16]string{9473: "its API"}, Pool6: netip.MustParsePrefix("fd00:1:2::/48")})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.settleDefault(nil); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCreateNetwork(t *testing.T) {
	long := map[string]string{"k": strings.Repeat("x", maxLabelBytes)}
	for _, c := range []struct {
		name string
		req  *wherryv1.CreateNetworkRequest
		kind func(error) bool // nil: it works
		want string           // subnets and gateway, or part of the error
	}{
		{"next free", &wherryv1.CreateNetworkRequest{Name: "n"}, nil, "172.20.1.0/24 172.20.1.1 fd00:1:2:1::/64 fd00:1:2:1::1"},
		{"own subnets", &wherryv1.CreateNetworkRequest{Name: "n", Subnet4: "10.9.0.0/16", Subnet6: "fd77::/80", Gateway4: "10.9.255.254"}, nil,
			"10.9.0.0/16 10.9.255.254 fd77::/80 fd77::1"},
		{"the default one's subnet", &wherryv1.CreateNetworkRequest{Name: "n", Subnet4: "172.20.0.0/25"}, errdefs.IsFailedPrecondition, "172.20.0.0/24"},
		{"not its first address", &wherryv1.CreateNetworkRequest{Name: "n", Subnet4: "10.9.0.1/16"}, errdefs.IsInvalidArgument, "10.9.0.0/16"},
		{"too small", &wherryv1.CreateNetworkRequest{Name: "n", Subnet4: "10.9.0.0/30"}, errdefs.IsInvalidArgument, "/29"},
		{"too large", &wherryv1.CreateNetworkRequest{Name: "n", Subnet4: "0.0.0.0/0"}, errdefs.IsFailedPrecondition, "overlaps"},
		{"multicast", &wherryv1.CreateNetworkRequest{Name: "n", Subnet4: "224.1.0.0/16"}, errdefs.IsInvalidArgument, "not for hosts"},
		{"loopback", &wherryv1.CreateNetworkRequest{Name: "n", Subnet4: "127.1.0.0/16"},
			func(error) bool { return true }, "127.1.0.0/16"}, // the machine's own, or not for hosts, whichever is seen first
		{"IPv6 as IPv4", &wherryv1.CreateNetworkRequest{Name: "n", Subnet4: "fd80::/64"}, errdefs.IsInvalidArgument, "IPv4"},
		{"no subnet", &wherryv1.CreateNetworkRequest{Name: "n", Subnet4: "ten"}, errdefs.IsInvalidArgument, "ten"},
		{"gateway elsewhere", &wherryv1.CreateNetworkRequest{Name: "n", Subnet4: "10.9.0.0/16", Gateway4: "10.8.0.1"}, errdefs.IsInvalidArgument, "10.8.0.1"},
		{"gateway is broadcast", &wherryv1.CreateNetworkRequest{Name: "n", Subnet4: "10.9.0.0/16", Gateway4: "10.9.255.255"}, errdefs.IsInvalidArgument, "host addresses"},
		{"built-in", &wherryv1.CreateNetworkRequest{Name: "host"}, errdefs.IsInvalidArgument, "built-in"},
		{"path", &wherryv1.CreateNetworkRequest{Name: "../x"}, errdefs.IsInvalidArgument, "no name"},
		{"empty", &wherryv1.CreateNetworkRequest{}, errdefs.IsInvalidArgument, "no name"},
		{"long", &wherryv1.CreateNetworkRequest{Name: strings.Repeat("x", 1<<20)}, errdefs.IsInvalidArgument, "no name"},
		{"labels", &wherryv1.CreateNetworkRequest{Name: "n", Labels: long}, errdefs.IsInvalidArgument, "labels"},
	} {
		n := newNetworks(t)
		got, err := n.CreateNetwork(context.Background(), c.req)
		if c.kind != nil {
			if err == nil || !c.kind(err) || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 500 {
				t.Errorf("%s: %v, want an error with %q", c.name, err, c.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if s := strings.Join([]string{got.Subnet4, got.Gateway4, got.Subnet6, got.Gateway6}, " "); s != c.want {
			t.Errorf("%s: %s, want %s", c.name, s, c.want)
		}
	}
}

func TestNetworksAreKept(t *testing.T) {
	n := newNetworks(t)
	ctx := context.Background()
	made, err := n.CreateNetwork(ctx, &wherryv1.CreateNetworkRequest{Name: "kept", Labels: map[string]string{"a": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.CreateNetwork(ctx, &wherryv1.CreateNetworkRequest{Name: "kept"}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("twice: %v", err)
	}
	if err := os.WriteFile(n.networkFile("damaged"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := New(n.opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"kept", made.Id, made.Id[:10]} {
		got, err := again.InspectNetwork(ctx, ref)
		if err != nil || got.Id != made.Id || got.Subnet6 != made.Subnet6 || got.Labels["a"] != "b" {
			t.Errorf("inspect %s: %v, %v", ref, got, err)
		}
	}
	list, _ := again.ListNetworks(ctx)
	var names []string
	for _, w := range list {
		names = append(names, w.Name)
	}
	if d := cmp.Diff([]string{"bridge", "kept"}, names); d != "" {
		t.Errorf("list (-want +got):\n%s", d)
	}
	for ref, is := range map[string]func(error) bool{"bridge": errdefs.IsFailedPrecondition, "nobody": errdefs.IsNotFound, "": errdefs.IsNotFound} {
		if err := again.RemoveNetwork(ctx, ref); !is(err) {
			t.Errorf("remove %q: %v", ref, err)
		}
	}
	if err := again.RemoveNetwork(ctx, "kept"); err != nil {
		t.Fatal(err)
	}
	if _, err := again.InspectNetwork(ctx, "kept"); !errdefs.IsNotFound(err) {
		t.Errorf("after removal: %v", err)
	}
}

// The default network moves out of the way of the machine; nobody chose its subnet.
func TestDefaultNetworkMoves(t *testing.T) {
	n := newNetworks(t)
	if err := n.settleDefault([]netip.Prefix{netip.MustParsePrefix("172.20.0.0/16")}); err != nil {
		t.Fatal(err)
	}
	got, _ := n.InspectNetwork(context.Background(), "default")
	if got.Subnet4 != "172.21.0.0/24" || got.Bridge != "wb0" {
		t.Errorf("moved to %s on %s", got.Subnet4, got.Bridge)
	}
}

func TestULAIsMadeOnce(t *testing.T) {
	o := Options{StateDir: t.TempDir(), RunDir: t.TempDir(), Board: &status.Board{}, Log: slog.New(slog.DiscardHandler)}
	one, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	two, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if one.opts.Pool6 != two.opts.Pool6 || one.opts.Pool6.Bits() != 48 {
		t.Errorf("%v, then %v", one.opts.Pool6, two.opts.Pool6)
	}
}

func TestCheck(t *testing.T) {
	n := newNetworks(t)
	ctx := context.Background()
	if _, err := n.CreateNetwork(ctx, &wherryv1.CreateNetworkRequest{Name: "in", Internal: true}); err != nil {
		t.Fatal(err)
	}
	many := make([]string, maxAliases+1)
	at := func(a *wherryv1.NetworkAttachment) netattach.Request {
		return netattach.Request{Networks: []*wherryv1.NetworkAttachment{a}}
	}
	for _, c := range []struct {
		name string
		r    netattach.Request
		want string // part of the error; empty: fine
	}{
		{"default", netattach.Request{}, ""},
		{"host", netattach.Request{Mode: wherryv1.NetworkMode_NETWORK_MODE_HOST}, ""},
		{"host with networks", netattach.Request{Mode: wherryv1.NetworkMode_NETWORK_MODE_HOST, Networks: []*wherryv1.NetworkAttachment{{Network: "in"}}}, "cannot join"},
		{"unknown", at(&wherryv1.NetworkAttachment{Network: "nope"}), "no network"},
		{"twice", netattach.Request{Networks: []*wherryv1.NetworkAttachment{{Network: "bridge"}, {Network: "default"}}}, "twice"},
		{"address", at(&wherryv1.NetworkAttachment{Network: "bridge", Ipv4: "172.20.0.9", Ipv6: "fd00:1:2::9"}), ""},
		{"address elsewhere", at(&wherryv1.NetworkAttachment{Network: "bridge", Ipv4: "10.0.0.9"}), "10.0.0.9"},
		{"gateway's address", at(&wherryv1.NetworkAttachment{Network: "bridge", Ipv4: "172.20.0.1"}), "172.20.0.1"},
		{"other family", at(&wherryv1.NetworkAttachment{Network: "bridge", Ipv4: "fd00:1:2::9"}), "family"},
		{"no address", at(&wherryv1.NetworkAttachment{Network: "bridge", Ipv6: "x"}), "x"},
		{"aliases", at(&wherryv1.NetworkAttachment{Network: "bridge", Aliases: many}), "aliases"},
		{"ports on internal", netattach.Request{Networks: []*wherryv1.NetworkAttachment{{Network: "in"}}, Ports: []*wherryv1.PortMapping{tcp(80, 80)}}, "internal"},
		{"port of the machine", netattach.Request{Ports: []*wherryv1.PortMapping{{HostPort: 9470, ContainerPort: 1, Count: 10}}}, "API"},
		{"udp port of that number", netattach.Request{Ports: []*wherryv1.PortMapping{udp(9473, 1)}}, ""},
	} {
		err := n.Check(c.r)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
