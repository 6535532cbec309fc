// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/insomniacslk/dhcp/iana"
)

// dhcp6 is DHCP for IPv6 (RFC 8415) on one link: for an address with what
// belongs to it where routers say that addresses are managed, else for name
// and time servers alone.
//
// The kernel looks for other users of the address (RFC 4862 5.4), and Network
// tells the keeper. The machine is known to servers by the link's hardware
// address, as in IPv4: there is nothing to keep for the next boot.
type dhcp6 struct {
	link    string
	mac     net.HardwareAddr
	address bool // ask for one
	now     func() time.Duration
}

func (*dhcp6) adopt(context.Context, *Lease) {}
func (*dhcp6) close()                        {}

// obtain takes the first server's offer; a server may also commit at once.
func (c *dhcp6) obtain(ctx context.Context) (*Lease, error) {
	client, err := c.open(ctx, discoverTries)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	if !c.address {
		return c.exchange(ctx, client, c.message(dhcpv6.MessageTypeInformationRequest))
	}
	solicit := c.message(dhcpv6.MessageTypeSolicit, c.association(nil), &dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
	offer, err := c.answer(ctx, client, solicit, func(m *dhcpv6.Message) bool {
		_, err := c.lease(m)
		return err == nil && (m.MessageType == dhcpv6.MessageTypeAdvertise || m.MessageType == dhcpv6.MessageTypeReply)
	})
	if err != nil {
		return nil, err
	}
	if offer.MessageType == dhcpv6.MessageTypeReply {
		return c.lease(offer)
	}
	l, err := c.lease(offer)
	if err != nil {
		return nil, err
	}
	return c.exchange(ctx, client, c.message(dhcpv6.MessageTypeRequest, c.association(l), serverOf(l)))
}

// confirm asks all servers of the link at once for a lease's extension, which
// tells whether it holds here, and more than a Confirm would.
func (c *dhcp6) confirm(ctx context.Context, l *Lease) (*Lease, error) {
	if l.MAC != c.mac.String() || l.Address.IsValid() != c.address {
		return nil, fmt.Errorf("%w: it was given to another device, or for another purpose", errRefused)
	}
	return c.renew(ctx, l, true)
}

func (c *dhcp6) renew(ctx context.Context, l *Lease, rebind bool) (*Lease, error) {
	client, err := c.open(ctx, confirmTries)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	switch {
	case !c.address:
		return c.exchange(ctx, client, c.message(dhcpv6.MessageTypeInformationRequest))
	case rebind:
		return c.exchange(ctx, client, c.message(dhcpv6.MessageTypeRebind, c.association(l)))
	}
	return c.exchange(ctx, client, c.message(dhcpv6.MessageTypeRenew, c.association(l), serverOf(l)))
}

// decline tells the server that its address is in use.
func (c *dhcp6) decline(ctx context.Context, l *Lease) error {
	client, err := c.open(ctx, confirmTries)
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = c.answer(ctx, client, c.message(dhcpv6.MessageTypeDecline, c.association(l), serverOf(l)), isReply)
	return err
}

// exchange sends a message and makes a lease of the reply.
func (c *dhcp6) exchange(ctx context.Context, client *nclient6.Client, m *dhcpv6.Message) (*Lease, error) {
	reply, err := c.answer(ctx, client, m, isReply)
	if err != nil {
		return nil, err
	}
	return c.lease(reply)
}

func isReply(m *dhcpv6.Message) bool { return m.MessageType == dhcpv6.MessageTypeReply }

// answer waits for an answer that is for us and names its server.
func (c *dhcp6) answer(ctx context.Context, client *nclient6.Client, m *dhcpv6.Message, fits nclient6.Matcher) (*dhcpv6.Message, error) {
	own := c.identity().ToBytes()
	answer, err := client.SendAndRead(ctx, nclient6.AllDHCPRelayAgentsAndServers, m, func(m *dhcpv6.Message) bool {
		id := m.Options.ClientID()
		return id != nil && bytes.Equal(id.ToBytes(), own) && m.Options.ServerID() != nil && fits(m)
	})
	if err != nil {
		return nil, fmt.Errorf("ask DHCPv6 servers: %w", err)
	}
	return answer, nil
}

func (c *dhcp6) lease(m *dhcpv6.Message) (*Lease, error) {
	return newLease6(m, c.mac, c.address, c.now())
}

func (c *dhcp6) identity() *dhcpv6.DUIDLL {
	return &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: c.mac}
}

// message makes a message with what each says of us. As in IPv4, the library's
// constructors would wait for the kernel's random numbers.
func (c *dhcp6) message(kind dhcpv6.MessageType, options ...dhcpv6.Option) *dhcpv6.Message {
	m := &dhcpv6.Message{MessageType: kind}
	number := rand.Uint32()
	copy(m.TransactionID[:], binary.BigEndian.AppendUint32(nil, number)[1:])
	m.AddOption(dhcpv6.OptClientID(c.identity()))
	m.AddOption(dhcpv6.OptElapsedTime(0))
	if kind != dhcpv6.MessageTypeDecline {
		m.AddOption(dhcpv6.OptRequestedOption(dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList,
			dhcpv6.OptionNTPServer, dhcpv6.OptionSNTPServerList, dhcpv6.OptionInformationRefreshTime))
	}
	for _, o := range options {
		m.AddOption(o)
	}
	return m
}

// association is the one that this link has with its servers, with the
// lease's address when there is one.
func (c *dhcp6) association(l *Lease) dhcpv6.Option {
	a := &dhcpv6.OptIANA{IaId: [4]byte{0, 0, 0, 1}}
	if l != nil && l.Address.IsValid() {
		a.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: l.Address.Addr().AsSlice()})
	}
	return a
}

func serverOf(l *Lease) dhcpv6.Option {
	return &dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionServerID, OptionData: l.ServerID}
}

// linkLocalTries is how often a socket is tried: the link's own address may
// still be being checked by the kernel, which takes about a second.
const linkLocalTries = 8

// open opens a socket on the link's own address.
func (c *dhcp6) open(ctx context.Context, tries int) (*nclient6.Client, error) {
	var conn net.PacketConn
	var err error
	for range linkLocalTries {
		conn, err = c.listen()
		if err == nil || ctx.Err() != nil {
			break
		}
		sleep(ctx, firstWait/2)
	}
	if err != nil {
		return nil, fmt.Errorf("open DHCPv6 socket on %s: %w", c.link, err)
	}
	return nclient6.NewWithConn(conn, c.mac, nclient6.WithTimeout(firstWait), nclient6.WithRetry(tries))
}

// listen names the link by its number: Go remembers for a minute which name had which.
func (c *dhcp6) listen() (net.PacketConn, error) {
	own, err := dhcpv6.GetLinkLocalAddr(c.link)
	if err != nil {
		return nil, err
	}
	l, err := net.InterfaceByName(c.link)
	if err != nil {
		return nil, err
	}
	return net.ListenUDP("udp6", &net.UDPAddr{IP: own, Port: dhcpv6.DefaultClientPort, Zone: strconv.Itoa(l.Index)})
}

// Bounds of how long name servers hold that came without an address.
const (
	minRefresh     = 10 * time.Minute
	defaultRefresh = 24 * time.Hour
	maxServerID    = 130
)

// newLease6 reads a server's answer, with an address or without.
func newLease6(m *dhcpv6.Message, mac net.HardwareAddr, address bool, now time.Duration) (*Lease, error) {
	l := &Lease{MAC: mac.String(), Obtained: now, DNS: servers6(m.Options.DNS()), NTP: servers6(slices.Concat(m.Options.NTPServers(), m.Options.SNTP()))}
	if id := m.Options.ServerID(); id != nil {
		l.ServerID = id.ToBytes()
	}
	if len(l.ServerID) == 0 || len(l.ServerID) > maxServerID {
		return nil, errors.New("a DHCPv6 server does not say who it is")
	}
	if list := m.Options.DomainSearchList(); list != nil {
		for _, d := range list.Labels {
			l.Search = appendDomain(l.Search, d)
		}
	}
	if s := m.Options.Status(); s != nil && s.StatusCode != iana.StatusSuccess {
		return nil, fmt.Errorf("%w (%s %q)", errRefused, s.StatusCode, s.StatusMessage)
	}
	if address {
		return l, l.associate(m.Options.OneIANA())
	}
	l.Renew = min(max(m.Options.InformationRefreshTime(defaultRefresh), minRefresh), maxLease)
	l.Rebind, l.Expires = l.Renew*3/2, l.Renew*2
	return l, nil
}

// associate takes the address over that a server gave, and its times.
func (l *Lease) associate(a *dhcpv6.OptIANA) error {
	if a == nil {
		return fmt.Errorf("%w: there is none in its answer", errRefused)
	}
	if s := a.Options.Status(); s != nil && s.StatusCode != iana.StatusSuccess {
		return fmt.Errorf("%w (%s %q)", errRefused, s.StatusCode, s.StatusMessage)
	}
	for _, o := range a.Options.Addresses() {
		ip, _ := netip.AddrFromSlice(o.IPv6Addr)
		if usable6(ip) && o.ValidLifetime > 0 {
			l.Address = netip.PrefixFrom(ip, 128)
			l.times(o.ValidLifetime, a.T1, a.T2, o.PreferredLifetime)
			return nil
		}
	}
	return fmt.Errorf("%w: no usable one is in its answer", errRefused)
}

// times makes 0 < renew < rebind < expires of whatever the server says.
func (l *Lease) times(valid, renew, rebind, preferred time.Duration) {
	l.Expires = min(max(valid, minLease), maxLease)
	if preferred <= 0 || preferred > l.Expires {
		preferred = l.Expires
	}
	if renew < minLease/3 || renew >= rebind || rebind >= l.Expires {
		renew, rebind = preferred/2, preferred*4/5
	}
	l.Renew, l.Rebind = max(renew, minLease/3), max(rebind, minLease/2)
}

func servers6(ips []net.IP) []netip.Addr {
	var out []netip.Addr
	for _, ip := range ips {
		if a, _ := netip.AddrFromSlice(ip); usable6(a) && len(out) < maxServers && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// usable6 refuses what cannot be one machine's address beyond its link.
func usable6(a netip.Addr) bool {
	return a.Is6() && !a.Is4In6() && a.IsGlobalUnicast()
}
