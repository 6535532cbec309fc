// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package containernet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/machine/containernet/firewall"
)

// Bounds of what one container publishes. Each port is an element of a kernel
// map for each address family.
const (
	maxMappings = 256
	maxPorts    = 4096
)

// Ports that are chosen by us, as the kernel chooses those of outgoing connections.
const (
	firstFreePort = 32768
	lastFreePort  = 60999
)

// published is a range of ports that leads to a container.
type published struct {
	Protocol  uint8
	Hosts     []netip.Addr // of each family at most one; unspecified: all of that family
	Host      uint16       // 0 until one is chosen
	Container uint16
	Count     int
}

// parsePorts reads what a container asks to publish.
func parsePorts(mappings []*wherryv1.PortMapping) ([]published, error) {
	if len(mappings) > maxMappings {
		return nil, invalid("too many port mappings: at most %d", maxMappings)
	}
	var out []published
	total := 0
	for _, m := range mappings {
		p, err := parsePort(m)
		if err != nil {
			return nil, err
		}
		if total += p.Count; total > maxPorts {
			return nil, invalid("too many published ports: at most %d in all", maxPorts)
		}
		out = append(out, p)
	}
	return out, nil
}

func parsePort(m *wherryv1.PortMapping) (p published, err error) {
	switch m.Protocol {
	case "", "tcp":
		p.Protocol = unix.IPPROTO_TCP
	case "udp":
		p.Protocol = unix.IPPROTO_UDP
	default:
		return p, invalid("the protocol %.20q of a published port is neither tcp nor udp", m.Protocol)
	}
	count := max(m.Count, 1)
	if m.ContainerPort == 0 || count > maxPorts || m.ContainerPort > 65535-count+1 || m.HostPort > 65535-count+1 {
		return p, invalid("published ports are from 1 to 65535, at most %d: container port %d, host port %d, count %d",
			maxPorts, m.ContainerPort, m.HostPort, count)
	}
	p.Host, p.Container, p.Count = uint16(m.HostPort), uint16(m.ContainerPort), int(count)
	p.Hosts = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	if m.HostAddress != "" {
		a, err := netip.ParseAddr(m.HostAddress)
		if err != nil || a.Zone() != "" {
			return p, invalid("the address %.60q to publish a port on is not an IPv4 or IPv6 address", m.HostAddress)
		}
		p.Hosts = []netip.Addr{a.Unmap()}
	}
	return p, nil
}

// forwards are the single ports, for the families that the container has.
func (p published) forwards(container4, container6 netip.Addr) (out []firewall.Forward) {
	for _, host := range p.Hosts {
		to := container4
		if host.Is6() {
			to = container6
		}
		if !to.IsValid() {
			continue
		}
		for i := range uint16(p.Count) {
			out = append(out, firewall.Forward{
				Protocol:  p.Protocol,
				Host:      netip.AddrPortFrom(host, p.Host+i),
				Container: netip.AddrPortFrom(to, p.Container+i),
			})
		}
	}
	return out
}

func (p published) protocol() string {
	if p.Protocol == unix.IPPROTO_UDP {
		return "udp"
	}
	return "tcp"
}

// mapping is what the container was given.
func (p published) mapping() *wherryv1.PortMapping {
	m := &wherryv1.PortMapping{
		HostPort: uint32(p.Host), ContainerPort: uint32(p.Container), Count: uint32(p.Count), Protocol: p.protocol(),
	}
	if len(p.Hosts) == 1 {
		m.HostAddress = p.Hosts[0].String()
	}
	return m
}

// portTable knows who has which port of the machine. The zero value is empty.
type portTable struct {
	held map[portKey][]holder
}

type portKey struct {
	protocol uint8
	six      bool
	port     uint16
}

type holder struct {
	host      netip.Addr
	container string // name
}

// probe tells why a port cannot be had although no container has it.
type probe func(protocol uint8, at netip.AddrPort) error

// claim takes the ports of p for a container, choosing them when p leaves it open.
func (t *portTable) claim(p *published, container string, free probe) error {
	if p.Host == 0 {
		if err := t.choose(p, free); err != nil {
			return err
		}
	} else if err := t.available(*p, free); err != nil {
		return err
	}
	t.take(*p, container)
	return nil
}

// choose finds a free range, from a random place on so that a port is not
// given again at once.
func (t *portTable) choose(p *published, free probe) error {
	const span = lastFreePort - firstFreePort + 1
	start := rand.IntN(span)
	for i := 0; i < span; {
		first := firstFreePort + (start+i)%span
		if first+p.Count-1 <= lastFreePort {
			p.Host = uint16(first)
			if t.available(*p, free) == nil {
				return nil
			}
		}
		i += p.Count
	}
	p.Host = 0
	return exhausted("no %d free %s ports in a row between %d and %d", p.Count, p.protocol(), firstFreePort, lastFreePort)
}

// available tells who or what is in the way of p.
func (t *portTable) available(p published, free probe) error {
	for _, host := range p.Hosts {
		for i := range uint16(p.Count) {
			port := p.Host + i
			for _, h := range t.held[portKey{p.Protocol, host.Is6(), port}] {
				if h.host == host || h.host.IsUnspecified() || host.IsUnspecified() {
					return conflict("port %d/%s is published by container %s already", port, p.protocol(), h.container)
				}
			}
			if err := free(p.Protocol, netip.AddrPortFrom(host, port)); err != nil {
				return conflict("port %d/%s cannot be published: %v", port, p.protocol(), err)
			}
		}
	}
	return nil
}

func (t *portTable) take(p published, container string) {
	if t.held == nil {
		t.held = map[portKey][]holder{}
	}
	p.each(func(k portKey, host netip.Addr) {
		t.held[k] = append(t.held[k], holder{host, container})
	})
}

func (t *portTable) release(p published) {
	p.each(func(k portKey, host netip.Addr) {
		holders := t.held[k]
		for i, h := range holders {
			if h.host == host {
				t.held[k] = append(holders[:i:i], holders[i+1:]...)
				break
			}
		}
		if len(t.held[k]) == 0 {
			delete(t.held, k)
		}
	})
}

func (p published) each(do func(k portKey, host netip.Addr)) {
	for _, host := range p.Hosts {
		for i := range uint16(p.Count) {
			do(portKey{p.Protocol, host.Is6(), p.Host + i}, host)
		}
	}
}

// listening is a probe that tries to take the port, as a server would. On all
// addresses it tries on the loopback link: that meets every socket that is not
// tied to a link, and not our name server, which is tied to the bridges.
func listening(protocol uint8, at netip.AddrPort) error {
	var config net.ListenConfig
	if at.Addr().IsUnspecified() {
		config.Control = func(_, _ string, c syscall.RawConn) (err error) {
			ctlErr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), "lo") })
			return errors.Join(ctlErr, err)
		}
	}
	family := "4"
	if at.Addr().Is6() {
		family = "6"
	}
	var socket interface{ Close() error }
	var err error
	if protocol == unix.IPPROTO_UDP {
		socket, err = config.ListenPacket(context.Background(), "udp"+family, at.String())
	} else {
		socket, err = config.Listen(context.Background(), "tcp"+family, at.String())
	}
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return errors.New("a program on the machine listens on it")
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("the machine has no address %s", at.Addr())
	case err != nil:
		return err
	}
	return socket.Close()
}
