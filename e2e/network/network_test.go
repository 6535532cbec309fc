// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package network promises how a machine is on its networks, and how its
// containers are on theirs: addresses, names, published ports, and who cannot
// reach whom.
package network

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/vmtest"
	"wherry.example/wherry/internal/vmtest/fixture"
)

const (
	tools     = "localhost/tools:1"
	secondMAC = "52:54:00:00:00:99"
	ownIPv4   = "10.0.2.15"
)

// harbour is a machine with two links.
type harbour struct {
	*vmtest.User
	m *vmtest.Machine
	t *testing.T
}

func TestNetworks(t *testing.T) {
	u := vmtest.NewUser(t)
	m := vmtest.Start(t, vmtest.Options{
		Config: u.Config("name: harbour", "network:", "  nameservers: [10.0.2.3, 10.9.0.3]", "  search: [boats.test]", "  interfaces:",
			"  - {match: '"+secondMAC+"', addresses: [10.9.0.5/24, 'fd09::5/64'], routes: [{to: 10.99.0.0/16, via: 10.9.0.2}]}", ""),
		Args: []string{"-netdev", "user,id=net1,net=10.9.0.0/24,ipv6=off", "-device", "virtio-net-pci,netdev=net1,romfile=,mac=" + secondMAC},
	})
	h := &harbour{u.Knows(m), m, t}
	h.Run("load", "-i", fixture.Archive(t, tools, fixture.Toybox(t)))
	t.Run("links", h.links)
	t.Run("modules come with the first container", h.modules)
	outside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "outside") }))
	defer outside.Close()
	h.containers(t)
	t.Run("published ports", h.published)
	t.Run("names", h.names)
	t.Run("isolation", func(t *testing.T) { h.isolation(t, port(t, outside.Listener.Addr())) })
	t.Run("none and host", h.noneAndHost)
	t.Run("a port twice", h.portTwice)
	t.Run("a network in use", h.inUse)
}

// link returns what the machine says of the link with an address.
func (h *harbour) status(t *testing.T) *wherryv1.GetStatusResponse {
	t.Helper()
	r, err := h.Client(h.m).Machine.GetStatus(t.Context(), connect.NewRequest(&wherryv1.GetStatusRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	return r.Msg
}

func (h *harbour) link(t *testing.T, second bool) *wherryv1.Link {
	t.Helper()
	for _, l := range h.status(t).Links {
		if strings.EqualFold(l.Mac, secondMAC) == second && strings.HasPrefix(l.Name, "e") {
			return l
		}
	}
	t.Fatal("there is no such link")
	return nil
}

func (h *harbour) links(t *testing.T) {
	waitFor(t, "an IPv6 address from the router", func() bool { return hasPrefix(h.link(t, false), "fec0:") })
	first, second := h.link(t, false), h.link(t, true)
	if !slices.Contains(first.Addresses, ownIPv4+"/24") || first.Method != "dhcp" || first.Gateway != "10.0.2.2" || !first.Up {
		t.Errorf("the first link: %v", first)
	}
	if !slices.Contains(second.Addresses, "10.9.0.5/24") || !slices.Contains(second.Addresses, "fd09::5/64") || second.Method != "static" || !second.Up {
		t.Errorf("the second link: %v", second)
	}
	if out := h.once("host", "cat", "/etc/resolv.conf"); !strings.Contains(out, "nameserver 10.0.2.3\nnameserver 10.9.0.3\n") || !strings.Contains(out, "search boats.test\n") {
		t.Errorf("resolv.conf: %q", out)
	}
	if out := h.once("host", "hostname"); out != "harbour\n" {
		t.Errorf("the host's name is %q", out)
	}
	h.m.SetLink("net1", false)
	waitFor(t, "the link to be down", func() bool { return !h.link(t, true).Up })
	h.m.SetLink("net1", true)
	waitFor(t, "the link to be up", func() bool { return h.link(t, true).Up && hasPrefix(h.link(t, true), "10.9.0.5/") })
	if out := h.once("host", "cat", "/proc/net/route"); !strings.Contains(out, "\t0000630A\t0200090A\t") {
		t.Errorf("the route is not back:\n%s", out)
	}
	h.m.SetLink("net0", false)
	time.Sleep(2 * time.Second)
	h.m.SetLink("net0", true)
	waitFor(t, "the machine to be reached again", func() bool { return h.Try("version").Code == 0 && hasPrefix(h.link(t, false), ownIPv4+"/") })
}

func hasPrefix(l *wherryv1.Link, prefix string) bool {
	return slices.ContainsFunc(l.Addresses, func(a string) bool { return strings.HasPrefix(a, prefix) })
}

func (h *harbour) modules(t *testing.T) {
	h.once("bridge", "true")
	loaded := h.once("host", "cat", "/proc/modules")
	for _, name := range []string{"nf_tables", "nft_chain_nat", "veth", "bridge"} {
		if !strings.Contains(loaded, name+" ") {
			t.Errorf("the module %s is not loaded", name)
		}
	}
}

// once runs a tool in a container of its own and returns what it printed.
func (h *harbour) once(network string, args ...string) string {
	if network == "bridge" {
		return h.Run(append([]string{"run", "--rm", tools}, args...)...)
	}
	return h.Run(append([]string{"run", "--rm", "--network", network, tools}, args...)...)
}

// containers makes the networks and who is on them.
func (h *harbour) containers(t *testing.T) {
	t.Helper()
	h.Run("network", "create", "front")
	h.Run("network", "create", "back")
	h.Run("network", "create", "--internal", "inner")
	h.Run("run", "-d", "--name", "web", "--network", "front", "--network-alias", "www", "-p", "8080:80", "-p", "127.0.0.1:8081:80", tools, "http", "80", "ahoy")
	h.Run("run", "-d", "--name", "range", "-p", "7001-7003:7001-7003", tools, "listen", "tcp", "7002")
	h.Run("run", "-d", "--name", "datagrams", "-p", "5000:5000/udp", tools, "listen", "udp", "5000")
	h.Run("run", "-d", "--name", "front", "--network", "front", tools, "sleep", "inf")
	h.Run("run", "-d", "--name", "back", "--network", "back", tools, "sleep", "inf")
	h.Run("run", "-d", "--name", "inner", "--network", "inner", tools, "sleep", "inf")
	h.Run("run", "-d", "--name", "inner2", "--network", "inner", tools, "http", "80", "within")
	h.Run("run", "-d", "--name", "hostly", "--network", "host", tools, "sleep", "inf")
}

// in runs a tool in a container that runs already.
func (h *harbour) in(container string, args ...string) vmtest.Result {
	return h.Try(append([]string{"exec", container, "/toybox"}, args...)...)
}

func (h *harbour) reaches(t *testing.T, container, url, want string) {
	t.Helper()
	if r := h.in(container, "get", url, "10"); r.Code != 0 || strings.TrimSpace(r.Stdout) != want {
		t.Errorf("%s gets %s: %+v", container, url, r)
	}
}

func (h *harbour) doesNotReach(t *testing.T, container, url string) {
	t.Helper()
	if r := h.in(container, "get", url); r.Code == 0 {
		t.Errorf("%s gets %s: %s", container, url, r.Stdout)
	}
}

// refused is what a container is told at once that may not reach something.
func (h *harbour) refused(t *testing.T, container, url, why string) {
	t.Helper()
	if r := h.in(container, "get", url); r.Code == 0 || !strings.Contains(r.Stderr, why) {
		t.Errorf("%s gets %s: %+v", container, url, r)
	}
}

func (h *harbour) published(t *testing.T) {
	get := func(guest uint16) (string, error) {
		c := http.Client{Timeout: 5 * time.Second}
		r, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d/", h.m.Forward("tcp", guest)))
		if err != nil {
			return "", err
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		return string(b), err
	}
	if got, err := get(8080); err != nil || got != "ahoy\n" {
		t.Errorf("from outside: %q, %v", got, err)
	}
	if got, err := get(8081); err == nil {
		t.Errorf("a port on loopback is reached from outside: %q", got)
	}
	if got := echo(t, "tcp", h.m.Forward("tcp", 7002)); !strings.HasSuffix(got, " ping") {
		t.Errorf("a port out of a range: %q", got)
	}
	if got := echo(t, "udp", h.m.Forward("udp", 5000)); !strings.HasSuffix(got, " ping") {
		t.Errorf("udp: %q", got)
	}
	if out := h.Run("ps", "--filter", "name=range"); !strings.Contains(out, "7001-7003->7001-7003/tcp") {
		t.Errorf("the range is not listed:\n%s", out)
	}
	for _, c := range []struct{ from, url string }{
		{"hostly", "http://127.0.0.1:8080"}, {"hostly", "http://[::1]:8080"}, {"hostly", "http://127.0.0.1:8081"},
		{"hostly", "http://" + ownIPv4 + ":8080"},
		{"web", "http://" + ownIPv4 + ":8080"}, {"front", "http://" + ownIPv4 + ":8080"}, {"back", "http://" + ownIPv4 + ":8080"},
	} {
		h.reaches(t, c.from, c.url, "ahoy")
	}
}

func echo(t *testing.T, protocol string, port uint16) string {
	t.Helper()
	c, err := net.Dial(protocol, net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "ping\n"); err != nil {
		t.Error(err)
	}
	b := make([]byte, 1024)
	n, err := c.Read(b)
	if err != nil {
		t.Errorf("%s answer: %v", protocol, err)
	}
	return strings.TrimSpace(string(b[:n]))
}

// addresses are a container's own, IPv4 first.
func (h *harbour) addresses(t *testing.T, container string) (v4, v6 string) {
	t.Helper()
	r, err := h.Client(h.m).Containers.InspectContainer(t.Context(), connect.NewRequest(&wherryv1.InspectContainerRequest{Container: container}))
	if err != nil {
		t.Fatal(err)
	}
	e := r.Msg.Container.Endpoints[0]
	v4, _, _ = strings.Cut(e.Ipv4, "/")
	v6, _, _ = strings.Cut(e.Ipv6, "/")
	return v4, v6
}

func (h *harbour) names(t *testing.T) {
	v4, v6 := h.addresses(t, "web")
	for _, name := range []string{"web", "www"} {
		if r := h.in("front", "lookup", name); r.Stdout != v4+" "+v6+"\n" {
			t.Errorf("%s is %+v, not %s and %s", name, r, v4, v6)
		}
		h.reaches(t, "front", "http://"+name, "ahoy")
	}
	h.reaches(t, "front", "http://["+v6+"]", "ahoy")
	h.reaches(t, "inner", "http://inner2", "within")
	if r := h.in("front", "lookup", "nobody"); r.Code == 0 {
		t.Errorf("a name that is nobody's: %+v", r)
	}
}

func (h *harbour) isolation(t *testing.T, outside string) {
	v4, v6 := h.addresses(t, "web")
	h.reaches(t, "front", "http://10.0.2.2:"+outside, "outside")
	h.reaches(t, "back", "http://10.0.2.2:"+outside, "outside")
	if r := h.in("back", "lookup", "web"); r.Code == 0 {
		t.Errorf("another network's name: %+v", r)
	}
	for _, url := range []string{"http://" + v4, "http://[" + v6 + "]"} {
		h.refused(t, "back", url, "connection refused")
		h.refused(t, "inner", url, "network is unreachable") // there is no route out
	}
	h.refused(t, "inner", "http://10.0.2.2:"+outside, "network is unreachable")
	h.doesNotReach(t, "front", "http://"+ownIPv4+":8081") // published on loopback only
}

func (h *harbour) noneAndHost(t *testing.T) {
	if out := h.once("none", "addrs"); strings.Contains(strings.NewReplacer("lo 127.0.0.1/8\n", "", "lo ::1/128\n", "").Replace(out), " ") {
		t.Errorf("without a network it has %q", out)
	}
	if r := h.in("hostly", "addrs"); !strings.Contains(r.Stdout, ownIPv4+"/24") {
		t.Errorf("on the host's network it has %+v", r)
	}
}

func (h *harbour) portTwice(t *testing.T) {
	for _, publish := range []string{"8080:1", "127.0.0.1:8080:1", "7000-7001:1-2"} {
		r := h.Try("run", "-d", "--name", "second", "-p", publish, tools, "sleep", "inf")
		holder := map[bool]string{true: "range", false: "web"}[publish[0] == '7']
		if r.Code != 125 || !strings.Contains(r.Stderr, holder) || strings.Count(r.Stderr, "wherry: ") != 1 {
			t.Errorf("%s: %+v", publish, r)
		}
		h.Try("rm", "-f", "second")
	}
	if r := h.Try("run", "-d", "-p", "9473:1", tools, "sleep", "inf"); r.Code != 125 || !strings.Contains(r.Stderr, "API") {
		t.Errorf("the API's port: %+v", r)
	}
	h.Run("run", "-d", "--name", "second", "-p", "8082:1", tools, "sleep", "inf")
	h.Run("rm", "-f", "second", "web")
	h.Run("run", "-d", "--name", "web", "-p", "8080:80", tools, "http", "80", "again")
	h.reaches(t, "hostly", "http://127.0.0.1:8080", "again")
}

func (h *harbour) inUse(t *testing.T) {
	r := h.Try("network", "rm", "front")
	if r.Code == 0 || !strings.Contains(r.Stderr, "front") || !strings.Contains(r.Stderr, "in use") && !strings.Contains(r.Stderr, "joined") {
		t.Errorf("%+v", r)
	}
	h.Run("rm", "-f", "front")
	h.Run("network", "rm", "front")
	if out := h.Run("network", "ls"); strings.Contains(out, "front") {
		t.Errorf("networks:\n%s", out)
	}
}

func port(t *testing.T, a net.Addr) string {
	t.Helper()
	_, p, err := net.SplitHostPort(a.String())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(300 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}
