// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package containernet

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/api/wherryv1"
)

func TestNames(t *testing.T) {
	w := newWorld(t)
	blue := w.network(&wherryv1.CreateNetworkRequest{Name: "blue"})
	vault := w.network(&wherryv1.CreateNetworkRequest{Name: "vault", Internal: true})
	with := func(aliases ...string) *wherryv1.NetworkAttachment {
		return &wherryv1.NetworkAttachment{Network: "blue", Aliases: aliases}
	}
	a := w.run("a", nil, with("Web"))
	b := w.run("b", []*wherryv1.PortMapping{udp(53, 5353), tcp(53, 5353)}, with("web", "db"))
	hidden := w.run("hidden", nil)
	c := w.run("c", nil, vault)
	_ = blue
	w.outside.must(order{Do: "run", Text: "true"})
	upstream := startUpstream(t)
	w.upstreams = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:9"), upstream}

	has := func(asker *container, name string, want ...string) {
		t.Helper()
		for _, network := range []string{"udp", "tcp"} {
			for _, gw := range []string{asker.result.Endpoints[0].Gateway4, asker.result.Endpoints[0].Gateway6} {
				got, err := asker.do(order{Do: "lookup", Network: network, Address: net.JoinHostPort(gw, "53"), Text: name})
				if len(want) == 0 {
					if err == nil {
						t.Errorf("%s by %s of %s: %s, want none", name, network, gw, got)
					}
					continue
				}
				for _, one := range want {
					if err != nil || !strings.Contains(" "+got+" ", " "+one+" ") {
						t.Errorf("%s by %s of %s: %q, %v; want %s", name, network, gw, got, err, one)
					}
				}
			}
		}
	}
	has(a, "b", b.ip4, b.ip6)
	has(a, "B", b.ip4, b.ip6)
	has(a, "b.blue", b.ip4)
	has(a, "db", b.ip4)
	has(a, "web", a.ip4, a.ip6, b.ip4, b.ip6)
	has(a, b.id[:12], b.ip4)
	has(a, b.ip4, "b.blue.")
	has(a, b.ip6, "b.blue.")
	has(a, "hidden")
	has(hidden, "b")
	has(hidden, b.ip4)
	has(a, "known.example", "198.51.100.7")
	has(hidden, "known.example", "198.51.100.7")
	has(c, "known.example") // no way out
	has(c, "c", c.ip4)

	// The name server of another network does not listen to us, nor to the outside.
	if got, err := hidden.do(order{Do: "lookup", Network: "udp", Address: net.JoinHostPort(a.result.Endpoints[0].Gateway4, "53"), Text: "b"}); err == nil {
		t.Errorf("the name server of another network answered %s", got)
	}
	if a.result.Search[0] != "example.test" || a.result.Nameservers[0].String() != a.result.Endpoints[0].Gateway4 {
		t.Errorf("resolver settings %v %v", a.result.Nameservers, a.result.Search)
	}
	w.nets.Detach(context.Background(), b.id)
	has(a, "b")
	has(a, "web", a.ip4)
}

// A UDP client that never pauses finds a new container behind the same port.
func TestUDPClientFollows(t *testing.T) {
	w := newWorld(t)
	w.run("first", nil)
	w.outside.must(order{Do: "run", Text: "true"})
	conn := startUDPClient(t)
	if got := conn.ask(); got != "" {
		t.Fatalf("before anything was published: %q", got)
	}
	for _, name := range []string{"one", "two"} {
		c := w.run(name, []*wherryv1.PortMapping{udp(7777, 7777)})
		c.serve("udp", ":7777", name)
		if got := conn.ask(); !strings.HasPrefix(got, name+" ") {
			t.Errorf("container %s: the client hears %q", name, got)
		}
		if err := w.nets.Detach(context.Background(), c.id); err != nil {
			t.Fatal(err)
		}
		if got := conn.ask(); got != "" {
			t.Errorf("after %s left: %q", name, got)
		}
	}
}

type udpClient struct{ net.Conn }

func startUDPClient(t *testing.T) udpClient {
	t.Helper()
	c, err := net.Dial("udp", machine4+":7777")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return udpClient{c}
}

func (c udpClient) ask() string {
	b := make([]byte, 100)
	for range 2 { // the first Write may report the ICMP error of an earlier one
		c.Write([]byte("?"))
		c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if n, err := c.Read(b); err == nil {
			return string(b[:n])
		}
	}
	return ""
}
