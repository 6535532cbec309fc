// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package containernet

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/linux/nettest"
	"wherry.example/wherry/internal/machine/containernet/link"
	"wherry.example/wherry/internal/machine/status"
	"wherry.example/wherry/internal/netattach"
)

func TestMain(m *testing.M) {
	if os.Getenv(agentEnv) != "" {
		agentMain()
		return
	}
	os.Exit(nettest.Main(m))
}

// The machine of these tests has an uplink to one computer outside.
const (
	machine4, outside4 = "192.0.2.1", "192.0.2.2"
	machine6, outside6 = "2001:db8::1", "2001:db8::2"
)

type world struct {
	t         *testing.T
	nets      *Networks
	opts      Options
	outside   *agent
	upstreams []netip.AddrPort
	ids       int
}

func newWorld(t *testing.T) *world {
	nettest.Require(t)
	w := &world{t: t, outside: startAgent(t)}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	wire(t, w.outside, "up0", "out0", []string{machine4 + "/24", machine6 + "/64"}, []string{outside4 + "/24", outside6 + "/64"})
	for _, to := range []string{machine4, machine6} { // a link that has come up is not ready at once
		for tries := 0; ; tries++ {
			_, err := w.outside.do(order{Do: "ask", Network: "tcp", Address: net.JoinHostPort(to, "1")})
			if err != nil && strings.Contains(err.Error(), "refused") {
				break
			}
			if tries == 10 {
				t.Fatalf("the uplink does not come up: %v", err)
			}
		}
	}
	w.opts = Options{
		StateDir: t.TempDir(), RunDir: memoryDir(t), Board: &status.Board{},
		Upstreams: func() []netip.AddrPort { return w.upstreams },
		Search:    func() []string { return []string{"example.test"} },
		Reserved:  map[uint16]string{9473: "its API"},
		Log:       slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	w.start()
	t.Cleanup(w.end)
	return w
}

// memoryDir is in memory, as the machine's run directory is.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "containernet-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (w *world) start() {
	w.t.Helper()
	n, err := New(w.opts)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := n.Start(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	w.nets = n
}

func (w *world) end() {
	w.nets.Retain(context.Background(), nil)
	w.nets.Close()
	w.nets.table.Delete()
	bridges, _ := link.Bridges()
	for _, b := range bridges {
		link.Remove(b)
	}
}

type container struct {
	*agent
	id, ip4, ip6 string
	result       netattach.Result
}

type onNetworks = []*wherryv1.NetworkAttachment

func (w *world) run(name string, ports []*wherryv1.PortMapping, networks ...*wherryv1.NetworkAttachment) *container {
	w.t.Helper()
	c := &container{agent: startAgent(w.t)}
	w.ids++
	c.id = fmt.Sprintf("c%011x%052x", w.ids, w.ids)
	var err error
	c.result, err = w.nets.Attach(context.Background(), netattach.Request{
		Container: c.id, Name: name, NetNS: c.netNS(), Ports: ports, Networks: networks,
	})
	if err != nil {
		w.t.Fatalf("attach %s: %v", name, err)
	}
	e := c.result.Endpoints[0]
	c.ip4, c.ip6 = bare(e.Ipv4), bare(e.Ipv6)
	return c
}

func bare(cidr string) string { return strings.Split(cidr, "/")[0] }

func (w *world) network(req *wherryv1.CreateNetworkRequest) *wherryv1.NetworkAttachment {
	w.t.Helper()
	if _, err := w.nets.CreateNetwork(context.Background(), req); err != nil {
		w.t.Fatal(err)
	}
	return &wherryv1.NetworkAttachment{Network: req.Name}
}

func tcp(host, container uint32) *wherryv1.PortMapping {
	return &wherryv1.PortMapping{HostPort: host, ContainerPort: container}
}

func udp(host, container uint32) *wherryv1.PortMapping {
	return &wherryv1.PortMapping{HostPort: host, ContainerPort: container, Protocol: "udp"}
}

// reach is one attempt: who asks whom, and what is to come of it.
type reach struct {
	what     string
	from     *agent // nil: the machine itself
	network  string
	to       string
	port     int
	want     string // beginning of the answer; empty: none must come
	wantFrom string // the address that the server saw, when it matters
	refused  bool   // no answer, and the asker is told so at once
}

func (r reach) try(t *testing.T) {
	t.Helper()
	address := net.JoinHostPort(r.to, fmt.Sprint(r.port))
	start := time.Now()
	got, err := r.ask(address)
	for range 2 {
		// The kernel hears neighbours for a new IPv6 address a moment after it
		// was added; a container needs longer to start than these tests.
		if r.want != "" && err != nil {
			got, err = r.ask(address)
		}
	}
	for range 4 {
		if r.refused && r.network == "udp" && errorIsTimeout(err) {
			start = time.Now()
			got, err = r.ask(address) // the kernel sends an address one ICMP message in a second
		}
	}
	name, seen, _ := strings.Cut(got, " ")
	switch {
	case r.want == "" && err == nil:
		t.Errorf("%s (%s %s): answered %q, want silence", r.what, r.network, address, got)
	case r.refused && (errorIsTimeout(err) || time.Since(start) > askTimeout/2):
		t.Errorf("%s (%s %s): %v after %s, want a refusal at once", r.what, r.network, address, err, time.Since(start))
	case r.want != "" && (err != nil || name != r.want):
		t.Errorf("%s (%s %s): %q, %v; want %s", r.what, r.network, address, got, err, r.want)
	case r.wantFrom != "" && seen != r.wantFrom:
		t.Errorf("%s (%s %s): the server saw %s, want %s", r.what, r.network, address, seen, r.wantFrom)
	}
}

// errorIsTimeout knows an error by its text: an agent's has come over a pipe.
func errorIsTimeout(err error) bool { return err != nil && strings.Contains(err.Error(), "timeout") }

func (r reach) ask(address string) (string, error) {
	if r.from == nil {
		return ask(r.network, address)
	}
	return r.from.do(order{Do: "ask", Network: r.network, Address: address})
}

func both(r reach, four, six string) []reach {
	r4, r6 := r, r
	r4.to, r6.to = four, six
	r6.what += ", IPv6"
	return []reach{r4, r6}
}

func TestPublishedPorts(t *testing.T) {
	w := newWorld(t)
	web := w.run("web", []*wherryv1.PortMapping{tcp(8080, 80), udp(8053, 53), {HostPort: 9000, ContainerPort: 7000, Count: 3},
		{HostAddress: "127.0.0.1", HostPort: 8081, ContainerPort: 80}, {HostAddress: machine6, HostPort: 8082, ContainerPort: 80}})
	other := w.run("other", nil)
	for _, port := range []string{":80", ":7000", ":7002", ":5432"} {
		web.serve("tcp", port, "web"+port)
	}
	web.serve("udp", ":53", "web:53")

	var all []reach
	add := func(r reach, four, six string) { all = append(all, both(r, four, six)...) }
	for _, from := range []struct {
		name string
		*agent
	}{{"outside", w.outside}, {"the machine", nil}, {"itself", web.agent}, {"a neighbour", other.agent}} {
		add(reach{what: "tcp from " + from.name, from: from.agent, network: "tcp", port: 8080, want: "web:80"}, machine4, machine6)
		add(reach{what: "udp from " + from.name, from: from.agent, network: "udp", port: 8053, want: "web:53"}, machine4, machine6)
		add(reach{what: "range from " + from.name, from: from.agent, network: "tcp", port: 9002, want: "web:7002"}, machine4, machine6)
		add(reach{what: "port not published from " + from.name, from: from.agent, network: "tcp", port: 5432}, machine4, machine6)
		all = append(all,
			reach{what: "published on loopback, from " + from.name, from: from.agent, network: "tcp", to: machine4, port: 8081},
			reach{what: "published on one address, from " + from.name, from: from.agent, network: "tcp", to: machine6, port: 8082, want: "web:80"})
	}
	add(reach{what: "loopback tcp", network: "tcp", port: 8080, want: "web:80"}, "127.0.0.1", "::1")
	add(reach{what: "loopback udp", network: "udp", port: 8053, want: "web:53"}, "127.0.0.1", "::1")
	add(reach{what: "the source is kept", from: w.outside, network: "tcp", port: 8080, want: "web:80"}, machine4, machine6)
	all = append(all,
		reach{what: "published on loopback", network: "tcp", to: "127.0.0.1", port: 8081, want: "web:80"},
		reach{what: "source from outside", from: w.outside, network: "tcp", to: machine4, port: 8080, want: "web:80", wantFrom: outside4},
		reach{what: "source from outside", from: w.outside, network: "tcp", to: machine6, port: 8080, want: "web:80", wantFrom: outside6})
	for _, r := range all {
		r.try(t)
	}
}

func TestWalls(t *testing.T) {
	w := newWorld(t)
	blue := w.network(&wherryv1.CreateNetworkRequest{Name: "blue"})
	vault := w.network(&wherryv1.CreateNetworkRequest{Name: "vault", Internal: true})
	a := w.run("a", nil)
	b := w.run("b", []*wherryv1.PortMapping{tcp(8080, 80)}, blue)
	b2 := w.run("b2", nil, blue)
	c := w.run("c", nil, vault)
	c2 := w.run("c2", nil, vault)
	for _, s := range []*container{a, b, b2, c, c2} {
		s.serve("tcp", ":80", "yes")
		s.serve("udp", ":80", "yes")
	}
	w.outside.serve("tcp", ":80", "outside")
	w.outside.serve("udp", ":80", "outside")
	if err := serve("tcp", "127.0.0.1:81", "private"); err != nil {
		t.Fatal(err)
	}
	// Somebody outside who knows the containers' addresses and sends to them by the machine.
	w.outside.must(order{Do: "run", Text: "ip route add 172.20.0.0/14 via " + machine4 + "; ip route add fd00::/8 via " + machine6 +
		"; ip route add 127.0.0.81/32 via " + machine4 + "; sysctl -qw net.ipv4.conf.all.route_localnet=1"})

	var all []reach
	add := func(r reach, four, six string) {
		r.port = 80
		for _, r.network = range []string{"tcp", "udp"} {
			all = append(all, both(r, four, six)...)
		}
	}
	add(reach{what: "same network", from: b.agent, want: "yes"}, b2.ip4, b2.ip6)
	add(reach{what: "same internal network", from: c.agent, want: "yes"}, c2.ip4, c2.ip6)
	add(reach{what: "default to blue", from: a.agent, refused: true}, b.ip4, b.ip6)
	add(reach{what: "blue to default", from: b.agent, refused: true}, a.ip4, a.ip6)
	add(reach{what: "blue to vault", from: b.agent, refused: true}, c.ip4, c.ip6)
	add(reach{what: "vault to blue", from: c.agent, refused: true}, b.ip4, b.ip6)
	add(reach{what: "default to outside", from: a.agent, want: "outside"}, outside4, outside6)
	add(reach{what: "blue to outside", from: b.agent, want: "outside"}, outside4, outside6)
	add(reach{what: "vault to outside", from: c.agent, refused: true}, outside4, outside6)
	add(reach{what: "outside to a container's address", from: w.outside}, a.ip4, a.ip6)
	add(reach{what: "outside to a published container's own address", from: w.outside}, b.ip4, b.ip6)
	add(reach{what: "the machine to a container", want: "yes"}, a.ip4, a.ip6)
	all = append(all,
		reach{what: "outgoing source", from: a.agent, network: "tcp", to: outside4, port: 80, want: "outside", wantFrom: machine4},
		reach{what: "outgoing source, IPv6", from: a.agent, network: "tcp", to: outside6, port: 80, want: "outside", wantFrom: machine6},
		reach{what: "published port from another network", from: a.agent, network: "tcp", to: machine4, port: 8080, want: "yes"},
		reach{what: "published port from another network, IPv6", from: a.agent, network: "tcp", to: machine6, port: 8080, want: "yes"},
		reach{what: "published port from an internal network", from: c.agent, network: "tcp", to: machine4, port: 8080, refused: true},
		reach{what: "the machine's loopback from outside", from: w.outside, network: "tcp", to: "127.0.0.1", port: 81})
	a.must(order{Do: "run", Text: "sysctl -qw net.ipv4.conf.all.route_localnet=1; ip route add 127.0.0.81/32 via " + a.result.Endpoints[0].Gateway4 + "; ip route del local 127.0.0.0/8 dev lo table local || true"})
	if err := serve("tcp", "127.0.0.81:81", "private"); err != nil {
		t.Fatal(err)
	}
	all = append(all,
		reach{what: "the machine's loopback from a container", from: a.agent, network: "tcp", to: "127.0.0.81", port: 81})
	for _, r := range all {
		r.try(t)
	}
}

func snapshot(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", "nft -nn list ruleset; ip -br link; ip -br addr; ip route; ip -6 route; ss -Hlntu | tr -s ' ' | sort").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

func TestDetachLeavesNothing(t *testing.T) {
	w := newWorld(t)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft")
	}
	blue := w.network(&wherryv1.CreateNetworkRequest{Name: "blue"})
	first := w.run("first", nil, blue, &wherryv1.NetworkAttachment{Network: DefaultNetwork}) // sets both networks up
	before := snapshot(t)
	c := w.run("c", []*wherryv1.PortMapping{tcp(80, 80), udp(53, 53), {HostPort: 1000, ContainerPort: 1000, Count: 300}}, blue,
		&wherryv1.NetworkAttachment{Network: DefaultNetwork})
	if got := c.must(order{Do: "run", Text: "ip -br link"}); !strings.Contains(got, "eth1") {
		t.Errorf("links of a container on two networks:\n%s", got)
	}
	if snapshot(t) == before {
		t.Fatal("attaching changed nothing")
	}
	for range 2 {
		if err := w.nets.Detach(context.Background(), c.id); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(before, snapshot(t)); d != "" {
		t.Errorf("detach left something (-before +after):\n%s", d)
	}
	if err := w.nets.RemoveNetwork(context.Background(), "blue"); err == nil {
		t.Error("network blue was removed while a container is on it")
	}
	w.nets.Detach(context.Background(), first.id)
	removed, err := w.nets.PruneNetworks(context.Background())
	if err != nil || len(removed) != 1 || removed[0] != "blue" {
		t.Errorf("prune: %v, %v", removed, err)
	}
}

func TestAttachAllOrNothing(t *testing.T) {
	w := newWorld(t)
	w.run("first", []*wherryv1.PortMapping{tcp(8080, 80)})
	before := snapshot(t)
	busy := startAgent(t)
	busy.must(order{Do: "run", Text: "ip link add eth0 type bridge"}) // in the way of ours
	for _, c := range []struct {
		what  string
		netNS string
		ports []*wherryv1.PortMapping
		want  string
	}{
		{"no namespace", "/proc/0/ns/net", []*wherryv1.PortMapping{tcp(8181, 80)}, "network namespace"},
		{"eth0 exists", busy.netNS(), []*wherryv1.PortMapping{tcp(8181, 80)}, "eth0"},
		{"port of a container", busy.netNS(), []*wherryv1.PortMapping{tcp(8181, 80), tcp(8080, 80)}, "published by container first"},
		{"port of the machine", busy.netNS(), []*wherryv1.PortMapping{tcp(8181, 80), tcp(9473, 80)}, "API"},
		{"address not ours", busy.netNS(), []*wherryv1.PortMapping{{HostAddress: "198.51.100.1", HostPort: 80, ContainerPort: 80}}, "no address"},
	} {
		_, err := w.nets.Attach(context.Background(), netattach.Request{
			Container: strings.Repeat("ab", 32), Name: "x", NetNS: c.netNS, Ports: c.ports})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one about %q", c.what, err, c.want)
		}
		if d := cmp.Diff(before, snapshot(t)); d != "" {
			t.Errorf("%s left something (-before +after):\n%s", c.what, d)
		}
		if left, _ := os.ReadDir(w.nets.attachedDir()); len(left) != 1 {
			t.Errorf("%s: %d records, want 1", c.what, len(left))
		}
	}
	if _, err := w.nets.Attach(context.Background(), netattach.Request{
		Container: strings.Repeat("ab", 32), Name: "x", NetNS: startAgent(t).netNS(), Ports: []*wherryv1.PortMapping{tcp(8181, 80)}}); err != nil {
		t.Errorf("the next good attach: %v", err)
	}
}

func TestPortsOfOthersAndFreeOnes(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:8888")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = w.nets.Attach(context.Background(), netattach.Request{
		Container: strings.Repeat("ab", 32), Name: "x", NetNS: startAgent(t).netNS(), Ports: []*wherryv1.PortMapping{tcp(8888, 80)}})
	if err == nil || !strings.Contains(err.Error(), "8888/tcp") {
		t.Errorf("a port that a program listens on: %v", err)
	}
	c := w.run("free", []*wherryv1.PortMapping{tcp(0, 80), {ContainerPort: 100, Count: 20}})
	c.serve("tcp", ":80", "free")
	c.serve("tcp", ":119", "last")
	first := c.result.Ports[0].HostPort
	if first < firstFreePort || first > lastFreePort {
		t.Errorf("chosen port %d", first)
	}
	reach{what: "chosen port", from: w.outside, network: "tcp", to: machine4, port: int(first), want: "free"}.try(t)
	reach{what: "chosen range", from: w.outside, network: "tcp", to: machine6, port: int(c.result.Ports[1].HostPort) + 19, want: "last"}.try(t)
}

// A container's traffic and the rules survive wherryd; what is gone is given back.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	blue := w.network(&wherryv1.CreateNetworkRequest{Name: "blue"})
	stays := w.run("stays", []*wherryv1.PortMapping{tcp(8080, 80)}, blue)
	gone := w.run("gone", []*wherryv1.PortMapping{tcp(8081, 80)})
	stays.serve("tcp", ":80", "stays")
	gone.serve("tcp", ":80", "gone")
	before := snapshot(t)
	w.nets.Close() // a crash closes the sockets and nothing else
	w.start()
	if d := cmp.Diff(before, snapshot(t)); d != "" {
		t.Errorf("after a restart (-before +after):\n%s", d)
	}
	if err := w.nets.Retain(context.Background(), []string{stays.id}); err != nil {
		t.Fatal(err)
	}
	reach{what: "the one that stays", from: w.outside, network: "tcp", to: machine4, port: 8080, want: "stays"}.try(t)
	reach{what: "the one that is gone", from: w.outside, network: "tcp", to: machine4, port: 8081}.try(t)
	if _, err := link.Veths(); err != nil {
		t.Fatal(err)
	}
	if got, _ := stays.do(order{Do: "lookup", Network: "udp", Address: net.JoinHostPort(stays.result.Endpoints[0].Gateway4, "53"), Text: "stays"}); !strings.Contains(got, stays.ip4) {
		t.Errorf("names after a restart: %q", got)
	}
	again := w.run("again", []*wherryv1.PortMapping{tcp(8081, 80)})
	if again.ip4 == stays.ip4 {
		t.Errorf("two containers have %s", again.ip4)
	}
}
