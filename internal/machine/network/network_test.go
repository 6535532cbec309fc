// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/linux/netlink"
	"wherry.example/wherry/internal/linux/nettest"
	"wherry.example/wherry/internal/machine/status"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

// wire is a link of the machine, eth0, whose other end is in a network
// namespace of its own, where a real DHCP server and router runs.
type wire struct {
	t   *testing.T
	pid int // of a process in the server's namespace

	mu   sync.Mutex
	log  []string
	stop func()
}

func newWire(t *testing.T) *wire {
	nettest.Require(t)
	for _, tool := range []string{"ip", "nsenter", "dnsmasq"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v: run tools/setup.sh", err)
		}
	}
	holder := exec.Command("sleep", "1000")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	w := &wire{t: t, pid: holder.Process.Pid}
	t.Cleanup(func() {
		holder.Process.Kill()
		holder.Wait()
	})
	run(t, "ip", "link", "add", "eth0", "address", "02:00:00:00:00:10", "type", "veth", "peer", "name", "up0", "netns", fmt.Sprint(w.pid))
	t.Cleanup(func() { run(t, "ip", "link", "del", "eth0") })
	w.in("ip", "link", "set", "lo", "up")
	w.in("ip", "link", "set", "up0", "up")
	return w
}

func run(t *testing.T, command ...string) {
	t.Helper()
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(command, " "), err, out)
	}
}

func (w *wire) in(command ...string) {
	w.t.Helper()
	run(w.t, append([]string{"nsenter", "-t", fmt.Sprint(w.pid), "-n"}, command...)...)
}

// serve starts dnsmasq with addresses on its end, in place of one that runs.
func (w *wire) serve(address string, options ...string) {
	w.t.Helper()
	w.silence()
	w.in("ip", "addr", "flush", "dev", "up0", "scope", "global")
	for a := range strings.FieldsSeq(address) {
		w.in("ip", "addr", "add", a, "dev", "up0", "nodad")
	}
	args := append([]string{"-t", fmt.Sprint(w.pid), "-n", "dnsmasq", "--keep-in-foreground", "--log-facility=-", "--log-dhcp", "--conf-file=/dev/null",
		"--interface=up0", "--bind-dynamic", "--except-interface=lo", "--no-resolv", "--no-hosts", "--no-ping", "--leasefile-ro", "--user=root", "--pid-file="}, options...)
	cmd := exec.Command("nsenter", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StderrPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	go w.read(out, done)
	w.stop = func() {
		cmd.Process.Kill()
		<-done
		cmd.Wait()
	}
	w.t.Cleanup(w.silence)
	w.await("dnsmasq to start", func() bool { return w.said("started, ") > 0 })
}

func (w *wire) silence() {
	if w.stop != nil {
		w.stop()
		w.stop = nil
	}
}

func (w *wire) read(out io.Reader, done chan struct{}) {
	defer close(done)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		w.mu.Lock()
		w.log = append(w.log, lines.Text())
		w.mu.Unlock()
	}
}

// said counts the lines of the server's log that hold a text.
func (w *wire) said(text string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, l := range w.log {
		if strings.Contains(l, text) {
			n++
		}
	}
	return n
}

func (w *wire) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = nil
}

func (w *wire) await(what string, ok func() bool) {
	w.t.Helper()
	// The longest pause after a conflict, and what comes after it.
	for deadline := time.Now().Add(minPause*3/2 + 5*time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			out, _ := exec.Command("ip", "addr").CombinedOutput()
			w.mu.Lock()
			defer w.mu.Unlock()
			w.t.Fatalf("waited too long for %s\n%s\n%s", what, out, strings.Join(w.log, "\n"))
		}
	}
}

// machine is a Network that runs.
type machine struct {
	*Network
	w        *wire
	board    *status.Board
	dir      string
	machines chan config.Machine
	stop     func()

	mu   sync.Mutex
	name string
}

func (w *wire) boot(dir string, m config.Machine) *machine {
	w.t.Helper()
	x := &machine{w: w, dir: dir, board: &status.Board{}, machines: make(chan config.Machine, 1)}
	x.Network = New(Options{
		Log: slog.New(slog.NewTextHandler(w.t.Output(), nil)), Board: x.board, RunDir: dir,
		SetHostName: func(name string) error {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.name = name
			return nil
		},
	})
	x.machines <- m
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- x.Run(ctx, x.machines) }()
	x.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(x.stop)
	return x
}

func (x *machine) has(address string) bool {
	s := x.State()
	return len(s.Links) == 1 && slices.Contains(s.Links[0].Addresses, address)
}

func (x *machine) hostName() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.name
}

func (x *machine) resolvConf() string {
	b, err := os.ReadFile(filepath.Join(x.dir, "resolv.conf"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		x.w.t.Fatal(err)
	}
	return string(b)
}

var basic = []string{
	"--dhcp-range=10.9.0.50,10.9.0.50,255.255.255.0,2h", "--dhcp-option=option:router,10.9.0.1", "--dhcp-option=option:dns-server,10.9.0.53,10.9.0.54",
	"--domain=lab.example", "--dhcp-option=option:ntp-server,10.9.0.123", "--dhcp-option=option:mtu,1400", "--dhcp-host=02:00:00:00:00:10,given-name",
}

func TestDHCP(t *testing.T) {
	w := newWire(t)
	w.serve("10.9.0.1/24", basic...)
	start := time.Now()
	x := w.boot(t.TempDir(), config.Default())
	w.await("the address", func() bool { return x.has("10.9.0.50/24") })
	t.Logf("address %s after the start of Run, with the link down before", time.Since(start))
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("the address took %s", d)
	}
	s := x.State()
	if l := s.Links[0]; l.Gateway != "10.9.0.1" || l.Method != "dhcp" || !l.Up {
		t.Errorf("link: %v", l)
	}
	if s.HostName != "given-name" || x.hostName() != "given-name" {
		t.Errorf("host name %q, set %q", s.HostName, x.hostName())
	}
	if len(s.TimeServers) != 1 || s.TimeServers[0].String() != "10.9.0.123" {
		t.Errorf("time servers %v", s.TimeServers)
	}
	if want := "search lab.example\nnameserver 10.9.0.53\nnameserver 10.9.0.54\n"; !strings.HasSuffix(x.resolvConf(), want) {
		t.Errorf("resolv.conf:\n%s", x.resolvConf())
	}
	if out, _ := exec.Command("ip", "link", "show", "eth0").CombinedOutput(); !strings.Contains(string(out), "mtu 1400") {
		t.Errorf("MTU: %s", out)
	}
	if line := x.board.List()[0]; !line.Ready || !strings.Contains(line.Message, "10.9.0.50/24") {
		t.Errorf("board: %+v", line)
	}
	c, err := net.DialTimeout("tcp", "10.9.0.1:53", 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// TestRestart ends Run and starts another: nothing is taken away, nobody is asked.
func TestRestart(t *testing.T) {
	w := newWire(t)
	w.serve("10.9.0.1/24 fd09::1/64", append(basic, "--enable-ra", "--dhcp-range=fd09::,ra-only", "--dhcp-option=option6:dns-server,[fd09::53]")...)
	dir := t.TempDir()
	x := w.boot(dir, config.Default())
	w.await("both families", func() bool {
		return x.has("10.9.0.50/24") && strings.Contains(x.resolvConf(), "fd09::53") && len(x.State().Links[0].Addresses) == 2
	})
	before := x.State()
	x.stop()
	w.forget()

	var removed []string
	watch := watchAddresses(t, func(s string) {
		if !byRouter.MatchString(s) {
			removed = append(removed, s)
		}
	})
	y := w.boot(dir, config.Default())
	w.await("the second Run", func() bool { return y.has("10.9.0.50/24") })
	if s := y.State(); !s.equal(before) {
		t.Errorf("before %+v\nafter %+v", before, s)
	}
	time.Sleep(500 * time.Millisecond)
	watch()
	if len(removed) > 0 || w.said("DHCP") > 0 {
		t.Errorf("changes: %v, the server said:\n%s", removed, strings.Join(w.log, "\n"))
	}
}

// byRouter matches lines of ip monitor that a router causes: it may announce again at any time.
var byRouter = regexp.MustCompile(`mngtmpaddr|proto ra|^\s+valid_lft`)

// watchAddresses runs ip monitor until the returned function is called.
func watchAddresses(t *testing.T, changed func(string)) (stop func()) {
	cmd := exec.Command("ip", "monitor", "address", "route")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			changed(lines.Text())
		}
	}()
	return func() {
		cmd.Process.Kill()
		<-done
		cmd.Wait()
	}
}

// TestCarrier unplugs and plugs again: at the same server, then at another one.
func TestCarrier(t *testing.T) {
	w := newWire(t)
	w.serve("10.9.0.1/24", basic...)
	x := w.boot(t.TempDir(), config.Default())
	w.await("the address", func() bool { return x.has("10.9.0.50/24") })

	w.in("ip", "link", "set", "up0", "down")
	w.await("the loss of the carrier", func() bool { return !x.State().Links[0].Up })
	w.forget()
	start := time.Now()
	w.in("ip", "link", "set", "up0", "up")
	w.await("the confirmation", func() bool { return x.State().Links[0].Up && w.said("DHCPACK") == 1 })
	t.Logf("confirmed %s after the carrier", time.Since(start))
	if w.said("DHCPDISCOVER") > 0 {
		t.Error("the lease was asked for anew")
	}

	w.in("ip", "link", "set", "up0", "down")
	w.await("the loss of the carrier", func() bool { return !x.State().Links[0].Up })
	w.forget()
	w.serve("10.8.0.1/24", "--dhcp-range=10.8.0.60,10.8.0.60,255.255.255.0,2h", "--dhcp-authoritative")
	w.in("ip", "link", "set", "up0", "up")
	w.await("an address of the other network", func() bool { return x.has("10.8.0.60/24") && !x.has("10.9.0.50/24") })
	if w.said("DHCPNAK") == 0 {
		t.Error("there was no NAK")
	}
	if g := x.State().Links[0].Gateway; g != "10.8.0.1" {
		t.Errorf("gateway %s", g)
	}
}

func TestRenewal(t *testing.T) {
	w := newWire(t)
	w.serve("10.9.0.1/24", append(basic, "--dhcp-option=option:T1,10", "--dhcp-option-force=121,0.0.0.0/0,10.9.0.2,10.7.0.0/16,10.9.0.3")...)
	x := w.boot(t.TempDir(), config.Default())
	w.await("the address", func() bool { return x.has("10.9.0.50/24") })
	if out, _ := exec.Command("ip", "-4", "route").CombinedOutput(); !strings.Contains(string(out), "10.7.0.0/16 via 10.9.0.3 dev eth0 proto dhcp") ||
		!strings.Contains(string(out), "default via 10.9.0.2 dev eth0") || strings.Contains(string(out), "10.9.0.1") {
		t.Errorf("classless routes:\n%s", out)
	}
	w.forget()
	var changes []string
	stop := watchAddresses(t, func(s string) { changes = append(changes, s) })
	w.await("the renewal", func() bool { return w.said("DHCPACK") > 0 })
	time.Sleep(200 * time.Millisecond)
	stop()
	if w.said("DHCPDISCOVER") > 0 || strings.Contains(strings.Join(changes, "\n"), "Deleted") {
		t.Errorf("renewal took something away: %v", changes)
	}
}

// TestReconfigure moves between DHCP, static addresses and back.
func TestReconfigure(t *testing.T) {
	w := newWire(t)
	w.serve("10.9.0.1/24", basic...)
	x := w.boot(t.TempDir(), config.Default())
	w.await("the address", func() bool { return x.has("10.9.0.50/24") })
	x.machines <- config.Machine{Name: "fixed", Network: config.Network{
		Nameservers: []string{"192.0.2.53"},
		Interfaces: []config.Interface{{
			Match: "eth*", Addresses: []string{"10.9.0.77/24", "fd09::77/64"}, Gateway: "10.3.0.1", Gateway6: "fe80::1", IPv6: config.IPv6Static, MTU: 1300,
			Routes: []config.Route{{To: "10.6.0.0/16", Via: "10.9.0.9"}, {To: "10.5.0.0/16"}},
		}},
	}}
	w.await("the static addresses", func() bool {
		return x.has("10.9.0.77/24") && x.has("fd09::77/64") && !x.has("10.9.0.50/24") && x.hostName() == "fixed"
	})
	if got := x.resolvConf(); !strings.HasSuffix(got, "wherryd.\nnameserver 192.0.2.53\n") {
		t.Errorf("resolv.conf:\n%s", got)
	}
	out, _ := exec.Command("sh", "-c", "ip -4 route; ip -6 route; cat /proc/sys/net/ipv6/conf/eth0/accept_ra /sys/class/net/eth0/mtu; ip link show eth0").CombinedOutput()
	for _, want := range []string{"default via 10.3.0.1 dev eth0 proto static metric", "onlink", "10.6.0.0/16 via 10.9.0.9 dev eth0 proto static", "10.5.0.0/16 dev eth0 proto static scope link", "default via fe80::1 dev eth0 proto static", "\n0\n", "mtu 1300"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	x.machines <- config.Default()
	w.await("DHCP again", func() bool { return x.has("10.9.0.50/24") && len(x.State().Links[0].Addresses) == 1 })
	if out, _ := exec.Command("ip", "route").CombinedOutput(); strings.Contains(string(out), "static") {
		t.Errorf("routes remain:\n%s", out)
	}
}

// TestLateServer starts without a server, and with links that are not ours.
func TestLateServer(t *testing.T) {
	w := newWire(t)
	run(t, "ip", "link", "add", "wb0", "type", "bridge")
	t.Cleanup(func() { run(t, "ip", "link", "del", "wb0") })
	x := w.boot(t.TempDir(), config.Default())
	w.await("the link", func() bool { return len(x.State().Links) == 1 && x.State().Links[0].Up })
	if line := x.board.List()[0]; line.Ready || !strings.Contains(line.Message, "waits for an address") {
		t.Errorf("board: %+v", line)
	}
	if x.hostName() != DefaultHostName {
		t.Errorf("host name %q", x.hostName())
	}
	w.serve("10.9.0.1/24", basic...)
	w.await("the address", func() bool { return x.has("10.9.0.50/24") })
	if out, _ := exec.Command("ip", "link", "show", "wb0").CombinedOutput(); !strings.Contains(string(out), "state DOWN") {
		t.Errorf("wb0 was touched: %s", out)
	}
}

// TestRouter takes addresses and name servers from a router although the machine forwards.
func TestRouter(t *testing.T) {
	w := newWire(t)
	run(t, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
	w.serve("fd09::1/64", "--enable-ra", "--dhcp-range=fd09::,ra-only", "--dhcp-option=option6:dns-server,[fd09::53],[fe80::]", "--dhcp-option=option6:domain-search,six.example")
	no := false
	x := w.boot(t.TempDir(), config.Machine{Network: config.Network{Interfaces: []config.Interface{{Match: "02:00:00:00:00:10", DHCP: &no}}}})
	w.await("the announcement", func() bool {
		s := x.State()
		return len(s.Links) == 1 && s.Links[0].Method == "slaac" && len(s.Nameservers) > 0 && s.Links[0].Gateway != ""
	})
	s := x.State()
	if a := netip.MustParsePrefix(s.Links[0].Addresses[0]); !netip.MustParsePrefix("fd09::/64").Contains(a.Addr()) {
		t.Errorf("address %s", a)
	}
	if got := x.resolvConf(); !strings.Contains(got, "search six.example\nnameserver fd09::53\n") {
		t.Errorf("resolv.conf:\n%s", got)
	}
	if s.Links[0].Gateway != "" && !strings.HasPrefix(s.Links[0].Gateway, "fe80::") {
		t.Errorf("gateway %s", s.Links[0].Gateway)
	}
}

// TestHotplug removes the link and adds it again.
func TestHotplug(t *testing.T) {
	w := newWire(t)
	w.serve("10.9.0.1/24", basic...)
	x := w.boot(t.TempDir(), config.Default())
	w.await("the address", func() bool { return x.has("10.9.0.50/24") })
	run(t, "ip", "link", "del", "eth0")
	w.await("the end of the link", func() bool { return len(x.State().Links) == 0 })
	run(t, "ip", "link", "add", "eth0", "address", "02:00:00:00:00:10", "type", "veth", "peer", "name", "up0", "netns", fmt.Sprint(w.pid))
	w.in("ip", "link", "set", "up0", "up")
	w.serve("10.9.0.1/24", basic...)
	w.await("the address again", func() bool { return x.has("10.9.0.50/24") })
}

// TestManaged keeps hands off what is not ours.
func TestManaged(t *testing.T) {
	for _, tc := range []struct {
		link netlink.Link
		want bool
	}{
		{netlink.Link{Name: "eth0", Ethernet: true}, true},
		{netlink.Link{Name: "enp1s0", Ethernet: true}, true},
		{netlink.Link{Name: "eth0", Kind: "veth", Ethernet: true}, true},
		{netlink.Link{Name: "wv0123", Kind: "veth", Ethernet: true}, false},
		{netlink.Link{Name: "wb0", Kind: "bridge", Ethernet: true}, false},
		{netlink.Link{Name: "docker0", Kind: "bridge", Ethernet: true}, false},
		{netlink.Link{Name: "eth1", Kind: "dummy", Ethernet: true}, false},
		{netlink.Link{Name: "lo", Loopback: true}, false},
		{netlink.Link{Name: "tun0", Kind: "tun"}, false},
	} {
		if got := managed(tc.link); got != tc.want {
			t.Errorf("%+v: %v", tc.link, got)
		}
	}
}
