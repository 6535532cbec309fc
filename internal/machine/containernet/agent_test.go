// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package containernet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// An agent is a process in a network namespace of its own: a container, or a
// computer outside. The test tells it what to do over its standard streams.
type agent struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

const agentEnv = "WHERRY_TEST_AGENT"

type order struct {
	Do      string // serve, ask, lookup, run
	Network string // tcp, udp, tcp4 …
	Address string
	Text    string
}

type report struct {
	Text  string
	Error string
}

func startAgent(t *testing.T) *agent {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), agentEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET} // it ends when its input does
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a := &agent{t: t, cmd: cmd, in: in, out: bufio.NewReader(out)}
	t.Cleanup(a.stop)
	a.do(order{Do: "ready"})
	return a
}

func (a *agent) stop() {
	a.in.Close()
	a.cmd.Wait()
}

func (a *agent) netNS() string { return fmt.Sprintf("/proc/%d/ns/net", a.cmd.Process.Pid) }

func (a *agent) do(o order) (string, error) {
	a.t.Helper()
	if err := json.NewEncoder(a.in).Encode(o); err != nil {
		a.t.Fatalf("agent: %v", err)
	}
	line, err := a.out.ReadBytes('\n')
	if err != nil {
		a.t.Fatalf("agent: %v", err)
	}
	var r report
	if err := json.Unmarshal(line, &r); err != nil {
		a.t.Fatalf("agent: %v", err)
	}
	if r.Error != "" {
		return r.Text, errors.New(r.Error)
	}
	return r.Text, nil
}

func (a *agent) must(o order) string {
	a.t.Helper()
	text, err := a.do(o)
	if err != nil {
		a.t.Fatalf("%+v: %v", o, err)
	}
	return text
}

// serve answers every question with its name and who asked: "name 10.0.0.1".
func (a *agent) serve(network, address, name string) {
	a.t.Helper()
	a.must(order{Do: "serve", Network: network, Address: address, Text: name})
}

func agentMain() {
	in := json.NewDecoder(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	for {
		var o order
		if in.Decode(&o) != nil {
			os.Exit(0)
		}
		var r report
		text, err := o.obey()
		r.Text = text
		if err != nil {
			r.Error = err.Error()
		}
		out.Encode(r)
	}
}

func (o order) obey() (string, error) {
	switch o.Do {
	case "ready":
		return "", nil
	case "serve":
		return "", serve(o.Network, o.Address, o.Text)
	case "ask":
		return ask(o.Network, o.Address)
	case "lookup":
		return lookup(o.Network, o.Address, o.Text)
	case "run":
		out, err := exec.Command("sh", "-c", o.Text).CombinedOutput()
		return string(out), err
	}
	return "", fmt.Errorf("unknown order %q", o.Do)
}

func serve(network, address, name string) error {
	if strings.HasPrefix(network, "udp") {
		c, err := net.ListenPacket(network, address)
		if err != nil {
			return err
		}
		go func() {
			b := make([]byte, 2048)
			for {
				_, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				c.WriteTo([]byte(name+" "+host(from)), from)
			}
		}()
		return nil
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "%s %s", name, host(c.RemoteAddr()))
			c.Close()
		}
	}()
	return nil
}

func host(a net.Addr) string {
	h, _, _ := net.SplitHostPort(a.String())
	return h
}

const askTimeout = 700 * time.Millisecond

func ask(network, address string) (string, error) {
	c, err := net.DialTimeout(network, address, askTimeout)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(askTimeout))
	if strings.HasPrefix(network, "udp") {
		if _, err := c.Write([]byte("?")); err != nil {
			return "", err
		}
		b := make([]byte, 2048)
		n, err := c.Read(b)
		return string(b[:n]), err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

// lookup asks the name server at address; network is udp or tcp.
func lookup(network, server, name string) (string, error) {
	r := &net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, server)
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if net.ParseIP(name) != nil {
		names, err := r.LookupAddr(ctx, name)
		return strings.Join(names, " "), err
	}
	addrs, err := r.LookupHost(ctx, name)
	return strings.Join(addrs, " "), err
}

// wire joins the machine and an agent by a cable: link names inside and out.
func wire(t *testing.T, a *agent, here, there string, hereAddrs, thereAddrs []string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = here
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: there, PeerNamespace: netlink.NsPid(a.cmd.Process.Pid)}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netlink.LinkDel(pair) })
	script := fmt.Sprintf("ip link set lo up; ip link set %s up;", there)
	for _, s := range thereAddrs {
		script += fmt.Sprintf("ip addr add %s dev %s nodad;", s, there)
	}
	a.must(order{Do: "run", Text: script})
	for _, s := range hereAddrs {
		addr, err := netlink.ParseAddr(s)
		if err != nil {
			t.Fatal(err)
		}
		addr.Flags = syscall.IFA_F_NODAD
		if err := netlink.AddrAdd(pair, addr); err != nil {
			t.Fatal(err)
		}
	}
	if err := netlink.LinkSetUp(pair); err != nil {
		t.Fatal(err)
	}
}
