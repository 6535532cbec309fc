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

// dhcp4 is DHCP for IPv4 (RFC 2131) on one link.
type dhcp4 struct {
	log   *slog.Logger
	link  string
	mac   net.HardwareAddr
	name  string // sent as the host name, when there is one
	now   func() time.Duration
	taken chan<- string
	// defence is of the address of the last lease.
	defence *defence
}

// obtain asks all servers for an address and takes the first offer, unless
// somebody else has the address.
func (c *dhcp4) obtain(ctx context.Context) (*Lease, error) {
	l, err := c.discover(ctx)
	if err != nil {
		return nil, err
	}
	return l, c.claim(ctx, l)
}

func (c *dhcp4) discover(ctx context.Context) (*Lease, error) {
	client, err := c.open(discoverTries)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	discover := c.ask(dhcpv4.MessageTypeDiscover)
	offer, err := client.SendAndRead(ctx, nclient4.DefaultServers, discover, func(p *dhcpv4.DHCPv4) bool {
		return p.MessageType() == dhcpv4.MessageTypeOffer && usable(addr4(p.YourIPAddr)) && usable(addr4(p.ServerIdentifier()))
	})
	if err != nil {
		return nil, fmt.Errorf("ask for an offer: %w", err)
	}
	request := c.ask(dhcpv4.MessageTypeRequest, dhcpv4.OptRequestedIPAddress(offer.YourIPAddr), dhcpv4.OptServerIdentifier(offer.ServerIdentifier()))
	request.TransactionID = offer.TransactionID
	return c.request(ctx, client, nclient4.DefaultServers, request, offer.ServerIdentifier())
}

// confirm is what RFC 2131 calls INIT-REBOOT.
func (c *dhcp4) confirm(ctx context.Context, l *Lease) (*Lease, error) {
	if l.MAC != c.mac.String() {
		return nil, fmt.Errorf("%w: it was given to %s", errRefused, l.MAC)
	}
	newer, err := c.reboot(ctx, l)
	if err != nil {
		return nil, err
	}
	return newer, c.claim(ctx, newer)
}

func (c *dhcp4) reboot(ctx context.Context, l *Lease) (*Lease, error) {
	client, err := c.open(confirmTries)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	request := c.ask(dhcpv4.MessageTypeRequest, dhcpv4.OptRequestedIPAddress(l.Address.Addr().AsSlice()))
	return c.request(ctx, client, nclient4.DefaultServers, request, nil)
}

// renew asks the lease's server, or all of them when rebind is set.
func (c *dhcp4) renew(ctx context.Context, l *Lease, rebind bool) (*Lease, error) {
	client, to, err := c.openBound(l, rebind)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	request := c.ask(dhcpv4.MessageTypeRequest)
	request.ClientIPAddr = l.Address.Addr().AsSlice()
	newer, err := c.request(ctx, client, to, request, nil)
	if err != nil {
		return nil, err
	}
	return newer, c.claim(ctx, newer)
}

// claim makes sure that nobody else uses a lease's address, and defends it from
// now on. An address that is defended already is not asked about again.
func (c *dhcp4) claim(ctx context.Context, l *Lease) error {
	if c.defence != nil && c.defence.address == l.Address.Addr() {
		return nil
	}
	if !c.watch(l) {
		return nil
	}
	who, err := c.defence.probe(ctx)
	if err == nil && who != "" {
		c.close()
		return errors.Join(taken(l, who), c.decline(ctx, l))
	}
	if err != nil {
		c.close()
		return err
	}
	c.defence.start(ctx, true)
	return nil
}

// adopt defends an address that is on the link already.
func (c *dhcp4) adopt(ctx context.Context, l *Lease) {
	if c.watch(l) {
		c.defence.start(ctx, false)
	}
}

// watch opens the address's defence. A machine that cannot have one is better
// off with an undefended address than with none.
func (c *dhcp4) watch(l *Lease) bool {
	c.close()
	warn := func(who string) {
		c.log.Warn("another device claims our address; told it that it is ours", "link", c.link, "address", l.Address, "device", who)
	}
	var err error
	if c.defence, err = newDefence(c.link, c.mac, l.Address.Addr(), c.taken, warn); err != nil {
		c.log.Warn("cannot watch for other users of our address", "link", c.link, "error", err)
	}
	return err == nil
}

func (c *dhcp4) close() {
	c.defence.close()
	c.defence = nil
}

// decline tells the server that its address is in use. There is no answer.
func (c *dhcp4) decline(_ context.Context, l *Lease) error {
	c.close()
	conn, err := c.raw()
	if err != nil {
		return err
	}
	defer conn.Close()
	m := c.message(dhcpv4.MessageTypeDecline, dhcpv4.OptRequestedIPAddress(l.Address.Addr().AsSlice()),
		dhcpv4.OptMessage("the address is in use"))
	if usable(l.Server) {
		m.UpdateOption(dhcpv4.OptServerIdentifier(l.Server.AsSlice()))
	}
	if _, err := conn.WriteTo(m.ToBytes(), nclient4.DefaultServers); err != nil {
		return fmt.Errorf("decline the address: %w", err)
	}
	return nil
}

func taken(l *Lease, who string) error {
	return fmt.Errorf("%w: %s is used by %s", errTaken, l.Address.Addr(), who)
}

// request sends a request and reads the answer: a lease, or errRefused.
func (c *dhcp4) request(ctx context.Context, client *nclient4.Client, to *net.UDPAddr, request *dhcpv4.DHCPv4, server net.IP) (*Lease, error) {
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

// message makes a message that says who we are. The library's own constructors spin until the kernel's random numbers are ready,
// which on a machine without a source of them can be long; a transaction's
// number needs to be different from the last, not secret.
func (c *dhcp4) message(kind dhcpv4.MessageType, options ...dhcpv4.Option) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: iana.HWTypeEthernet, ClientHWAddr: c.mac,
		ClientIPAddr: net.IPv4zero, YourIPAddr: net.IPv4zero, ServerIPAddr: net.IPv4zero, GatewayIPAddr: net.IPv4zero,
		Options: dhcpv4.Options{},
	}
	binary.BigEndian.PutUint32(m.TransactionID[:], rand.Uint32())
	m.UpdateOption(dhcpv4.OptMessageType(kind))
	for _, o := range options {
		m.UpdateOption(o)
	}
	return m
}

// ask makes a message with what we want to be told.
func (c *dhcp4) ask(kind dhcpv4.MessageType, options ...dhcpv4.Option) *dhcpv4.DHCPv4 {
	m := c.message(kind, options...)
	m.UpdateOption(dhcpv4.OptMaxMessageSize(nclient4.MaxMessageSize))
	m.UpdateOption(dhcpv4.OptParameterRequestList(dhcpv4.OptionSubnetMask, dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionRouter,
		dhcpv4.OptionDomainNameServer, dhcpv4.OptionDomainName, dhcpv4.OptionDNSDomainSearchList, dhcpv4.OptionHostName,
		dhcpv4.OptionInterfaceMTU, dhcpv4.OptionNTPServers))
	if c.name != "" {
		m.UpdateOption(dhcpv4.OptHostName(c.name))
	}
	return m
}

// open opens a raw socket, which works without an address.
func (c *dhcp4) open(tries int) (*nclient4.Client, error) {
	conn, err := c.raw()
	if err != nil {
		return nil, err
	}
	return nclient4.NewWithConn(conn, c.mac, nclient4.WithTimeout(firstWait), nclient4.WithRetry(tries))
}

func (c *dhcp4) raw() (net.PacketConn, error) {
	link, err := net.InterfaceByName(c.link)
	if err != nil {
		return nil, fmt.Errorf("open DHCP socket: %w", err)
	}
	raw, err := packet.Listen(link, packet.Datagram, unix.ETH_P_IP, &packet.Config{Filter: onlyDHCP})
	if err != nil {
		return nil, fmt.Errorf("open DHCP socket on %s: %w", c.link, err)
	}
	return nclient4.NewBroadcastUDPConn(raw, &net.UDPAddr{Port: nclient4.ClientPort}), nil
}

// openBound opens the socket for renewal: an ordinary one that speaks with the
// lease's server from our address, or the raw one to all servers.
func (c *dhcp4) openBound(l *Lease, rebind bool) (*nclient4.Client, *net.UDPAddr, error) {
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
