// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// dhcpClient keeps one link's lease (RFC 2131). It runs while the link has a
// carrier, and has a socket open only while it waits for an answer.
type dhcpClient struct {
	log  *slog.Logger
	link string
	mac  net.HardwareAddr
	name string // sent as the host name, when there is one
	// got is called with each new lease, and with nil when there is none any more.
	got func(*Lease)
	now func() time.Duration // since boot
}

// errRefused is a server's word that the lease is not ours (any more).
var errRefused = errors.New("the DHCP server refuses the address")

// How often and how long an answer is awaited; each try waits twice as long as the one before.
const (
	firstWait     = time.Second
	discoverTries = 6
	confirmTries  = 2
	minPause      = 20 * time.Second
	maxPause      = 5 * time.Minute
)

// run holds a lease until ctx ends. A lease from before is confirmed first:
// fresh says that the link was there all the time, so that there is no need to.
func (c *dhcpClient) run(ctx context.Context, lease *Lease, fresh bool) {
	if lease != nil && lease.MAC != c.mac.String() {
		lease = nil
	}
	if lease != nil && !fresh {
		lease = c.confirm(ctx, lease)
	}
	for pause := minPause; ctx.Err() == nil; {
		if lease == nil {
			var err error
			if lease, err = c.discover(ctx); err != nil {
				c.log.Warn("no DHCP lease", "link", c.link, "error", err)
				sleep(ctx, jitter(pause))
				pause = min(2*pause, maxPause)
				continue
			}
			pause = minPause
			c.bound(lease)
		}
		lease = c.hold(ctx, lease)
	}
}

func (c *dhcpClient) bound(l *Lease) {
	c.log.Info("DHCP lease", "link", c.link, "address", l.Address, "server", l.Server, "for", l.Expires)
	c.got(l)
}

// hold waits and renews. It returns a newer lease, or nil when this one ended.
func (c *dhcpClient) hold(ctx context.Context, l *Lease) *Lease {
	for ctx.Err() == nil {
		now := c.now() - l.Obtained
		switch {
		case now < l.Renew:
			sleep(ctx, l.Renew-now)
			continue
		case now >= l.Expires:
			c.log.Warn("the DHCP lease expired", "link", c.link, "address", l.Address)
			c.got(nil)
			return nil
		}
		newer, err := c.renew(ctx, l, now >= l.Rebind)
		switch {
		case err == nil:
			c.bound(newer)
			return newer
		case errors.Is(err, errRefused):
			c.log.Warn("DHCP lease lost", "link", c.link, "address", l.Address, "error", err)
			c.got(nil)
			return nil
		}
		// Half of what is left to the next deadline, as RFC 2131 4.4.5 has it.
		next := l.Expires
		if now < l.Rebind {
			next = l.Rebind
		}
		sleep(ctx, min(max((next-now)/2, minPause/4), next-now))
	}
	return l
}

// discover asks all servers for an address and takes the first offer.
func (c *dhcpClient) discover(ctx context.Context) (*Lease, error) {
	client, err := c.open(discoverTries)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	discover := c.message(dhcpv4.MessageTypeDiscover)
	offer, err := client.SendAndRead(ctx, nclient4.DefaultServers, discover, func(p *dhcpv4.DHCPv4) bool {
		return p.MessageType() == dhcpv4.MessageTypeOffer && usable(addr4(p.YourIPAddr)) && usable(addr4(p.ServerIdentifier()))
	})
	if err != nil {
		return nil, fmt.Errorf("ask for an offer: %w", err)
	}
	request := c.message(dhcpv4.MessageTypeRequest, dhcpv4.OptRequestedIPAddress(offer.YourIPAddr), dhcpv4.OptServerIdentifier(offer.ServerIdentifier()))
	request.TransactionID = offer.TransactionID
	return c.request(ctx, client, nclient4.DefaultServers, request, offer.ServerIdentifier())
}

// confirm asks whether a lease from before still holds on this link
// (INIT-REBOOT). Servers that do not know it may say nothing, so without an
// answer a new one is asked for. Without that either, the address is kept while
// the lease lasts (RFC 2131 3.2): a server that is away is no reason to lose
// connections.
func (c *dhcpClient) confirm(ctx context.Context, l *Lease) *Lease {
	newer, err := c.reboot(ctx, l)
	switch {
	case errors.Is(err, errRefused) || l.left(c.now()) <= 0:
		c.log.Info("the DHCP lease from before is not valid here", "link", c.link, "address", l.Address)
		c.got(nil)
		return nil
	case err != nil:
		if newer, err = c.discover(ctx); err != nil {
			return l
		}
	}
	c.bound(newer)
	return newer
}

func (c *dhcpClient) reboot(ctx context.Context, l *Lease) (*Lease, error) {
	client, err := c.open(confirmTries)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	request := c.message(dhcpv4.MessageTypeRequest, dhcpv4.OptRequestedIPAddress(l.Address.Addr().AsSlice()))
	return c.request(ctx, client, nclient4.DefaultServers, request, nil)
}

// renew asks the lease's server, or all of them when rebind is set.
func (c *dhcpClient) renew(ctx context.Context, l *Lease, rebind bool) (*Lease, error) {
	client, to, err := c.openBound(l, rebind)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	request := c.message(dhcpv4.MessageTypeRequest)
	request.ClientIPAddr = l.Address.Addr().AsSlice()
	return c.request(ctx, client, to, request, nil)
}

// request sends a request and reads the answer: a lease, or errRefused.
func (c *dhcpClient) request(ctx context.Context, client *nclient4.Client, to *net.UDPAddr, request *dhcpv4.DHCPv4, server net.IP) (*Lease, error) {
	answer, err := client.SendAndRead(ctx, to, request, func(p *dhcpv4.DHCPv4) bool {
		t := p.MessageType()
		return (t == dhcpv4.MessageTypeAck || t == dhcpv4.MessageTypeNak) && (server == nil || server.Equal(p.ServerIdentifier()))
	})
	if err != nil {
		return nil, fmt.Errorf("request an address: %w", err)
	}
	if answer.MessageType() == dhcpv4.MessageTypeNak {
		return nil, fmt.Errorf("%w (%s %q)", errRefused, answer.ServerIdentifier(), answer.Message())
	}
	return newLease(answer, c.now())
}

// message makes a message with what each says of us and asks for. The
// library's own constructors spin until the kernel's random numbers are ready,
// which on a machine without a source of them can be long; a transaction's
// number needs to be different from the last, not secret.
func (c *dhcpClient) message(kind dhcpv4.MessageType, options ...dhcpv4.Option) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: iana.HWTypeEthernet, ClientHWAddr: c.mac,
		ClientIPAddr: net.IPv4zero, YourIPAddr: net.IPv4zero, ServerIPAddr: net.IPv4zero, GatewayIPAddr: net.IPv4zero,
		Options: dhcpv4.Options{},
	}
	binary.BigEndian.PutUint32(m.TransactionID[:], rand.Uint32())
	m.UpdateOption(dhcpv4.OptMessageType(kind))
	m.UpdateOption(dhcpv4.OptMaxMessageSize(nclient4.MaxMessageSize))
	m.UpdateOption(dhcpv4.OptParameterRequestList(dhcpv4.OptionSubnetMask, dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionRouter,
		dhcpv4.OptionDomainNameServer, dhcpv4.OptionDomainName, dhcpv4.OptionDNSDomainSearchList, dhcpv4.OptionHostName,
		dhcpv4.OptionInterfaceMTU, dhcpv4.OptionNTPServers))
	if c.name != "" {
		m.UpdateOption(dhcpv4.OptHostName(c.name))
	}
	for _, o := range options {
		m.UpdateOption(o)
	}
	return m
}

// open opens a raw socket, which works without an address.
func (c *dhcpClient) open(tries int) (*nclient4.Client, error) {
	link, err := net.InterfaceByName(c.link)
	if err != nil {
		return nil, fmt.Errorf("open DHCP socket: %w", err)
	}
	raw, err := packet.Listen(link, packet.Datagram, unix.ETH_P_IP, &packet.Config{Filter: onlyDHCP})
	if err != nil {
		return nil, fmt.Errorf("open DHCP socket on %s: %w", c.link, err)
	}
	conn := nclient4.NewBroadcastUDPConn(raw, &net.UDPAddr{Port: nclient4.ClientPort})
	return nclient4.NewWithConn(conn, c.mac, nclient4.WithTimeout(firstWait), nclient4.WithRetry(tries))
}

// openBound opens the socket for renewal: an ordinary one that speaks with the
// lease's server from our address, or the raw one to all servers.
func (c *dhcpClient) openBound(l *Lease, rebind bool) (*nclient4.Client, *net.UDPAddr, error) {
	if rebind || !usable(l.Server) {
		client, err := c.open(confirmTries)
		return client, nclient4.DefaultServers, err
	}
	own := net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.Address.Addr(), nclient4.ClientPort))
	conn, err := net.ListenUDP("udp4", own)
	if err != nil {
		return nil, nil, fmt.Errorf("open DHCP socket on %s: %w", own, err)
	}
	client, err := nclient4.NewWithConn(conn, c.mac, nclient4.WithTimeout(firstWait), nclient4.WithRetry(confirmTries))
	return client, net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.Server, nclient4.ServerPort)), err
}

// onlyDHCP lets the kernel drop everything but UDP to port 68, so that a busy
// link does not wake us. Offsets are from the IPv4 header on.
var onlyDHCP = assemble(
	bpf.LoadAbsolute{Off: 9, Size: 1}, // protocol
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 6},
	bpf.LoadAbsolute{Off: 6, Size: 2}, // fragment offset
	bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 4},
	bpf.LoadMemShift{Off: 0}, // length of the header
	bpf.LoadIndirect{Off: 2, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: nclient4.ClientPort, SkipTrue: 1},
	bpf.RetConstant{Val: 0xffff},
	bpf.RetConstant{Val: 0},
)

func assemble(program ...bpf.Instruction) []bpf.RawInstruction {
	raw, err := bpf.Assemble(program)
	if err != nil {
		panic(err) // a constant program
	}
	return raw
}

// sleep waits, or less when ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// jitter keeps machines that lost their server together from asking together.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// sinceBoot reads the clock that nobody sets, and that goes on in suspend.
func sinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0 // cannot fail on Linux
	}
	return time.Duration(t.Nano())
}
