// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Times of IPv4 address conflict detection. RFC 5227 has a machine probe for 4
// to 7 s before it uses an address. Devices of a link answer within
// milliseconds, so ours probes shortly; who answers later is heard when the
// address is announced, and the address is then given up as it is in any later
// conflict (docs/decisions/0010-addresses-by-dhcp.md).
const (
	probes          = 2
	probeInterval   = 75 * time.Millisecond
	announcements   = 2
	announceEvery   = 2 * time.Second
	defendAtMostPer = 10 * time.Second
)

// arpSize is the length of an ARP packet about IPv4 on Ethernet.
const arpSize = 28

// defence watches one IPv4 address on a link: the kernel hands it only the
// packets of others that claim that address.
type defence struct {
	link    string
	mac     net.HardwareAddr
	address netip.Addr
	conn    *packet.Conn
	lost    chan<- string
	warn    func(who string)
	work    sync.WaitGroup
	end     context.CancelFunc
}

// newDefence opens the socket; until start nothing is heard or said.
func newDefence(link string, mac net.HardwareAddr, a netip.Addr, lost chan<- string, warn func(string)) (*defence, error) {
	l, err := net.InterfaceByName(link)
	if err != nil {
		return nil, fmt.Errorf("open ARP socket: %w", err)
	}
	conn, err := packet.Listen(l, packet.Datagram, unix.ETH_P_ARP, &packet.Config{Filter: claims(a)})
	if err != nil {
		return nil, fmt.Errorf("open ARP socket on %s: %w", link, err)
	}
	return &defence{link: link, mac: mac, address: a, conn: conn, lost: lost, warn: warn}, nil
}

// claims lets through what a device sends that uses an address, or is about to.
func claims(a netip.Addr) []bpf.RawInstruction {
	own := binary.BigEndian.Uint32(a.AsSlice())
	return assemble(
		bpf.LoadAbsolute{Off: 14, Size: 4}, // the sender's address
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: own, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 24, Size: 4}, // the address that a probe asks about
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: own, SkipTrue: 1},
		bpf.RetConstant{Val: arpSize},
		bpf.RetConstant{Val: 0},
	)
}

// request makes an ARP request for the address; with no sender it is a probe.
func (d *defence) request(sender netip.Addr) []byte {
	b := make([]byte, 0, arpSize)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, 1) // Ethernet, IPv4, their lengths, request
	b = append(append(b, d.mac...), sender.AsSlice()...)
	b = append(append(b, 0, 0, 0, 0, 0, 0), d.address.AsSlice()...)
	return b
}

func (d *defence) send(sender netip.Addr) error {
	_, err := d.conn.WriteTo(d.request(sender), &packet.Addr{HardwareAddr: net.HardwareAddr{255, 255, 255, 255, 255, 255}})
	if err != nil {
		return fmt.Errorf("send ARP on %s: %w", d.link, err)
	}
	return nil
}

// rival reads until somebody else claims the address, and returns who. It
// ignores what we sent ourselves and a network sends back.
func (d *defence) rival(probesCount bool) (string, error) {
	b := make([]byte, arpSize)
	for {
		n, _, err := d.conn.ReadFrom(b)
		if err != nil {
			return "", err
		}
		if n < arpSize || string(b[:6]) != "\x00\x01\x08\x00\x06\x04" {
			continue
		}
		sender := net.HardwareAddr(b[8:14])
		uses := netip.AddrFrom4([4]byte(b[14:18])) == d.address
		if (uses || probesCount) && sender.String() != d.mac.String() {
			return sender.String(), nil
		}
	}
}

// probe asks whether somebody has the address, for a moment, and returns who.
func (d *defence) probe(ctx context.Context) (string, error) {
	stop := context.AfterFunc(ctx, func() { d.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for range probes {
		if err := d.send(netip.IPv4Unspecified()); err != nil {
			return "", err
		}
		if err := d.conn.SetReadDeadline(time.Now().Add(probeInterval)); err != nil {
			return "", err
		}
		who, err := d.rival(true)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return who, err
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
	}
	return "", d.conn.SetReadDeadline(time.Time{})
}

// start defends the address until close; announce tells the link that we have it.
func (d *defence) start(ctx context.Context, announce bool) {
	ctx, d.end = context.WithCancel(ctx)
	d.work.Go(d.watch)
	if announce {
		d.work.Go(func() { d.announce(ctx) })
	}
}

func (d *defence) announce(ctx context.Context) {
	for range announcements {
		if d.send(d.address) != nil {
			return // the link went; who comes back announces again
		}
		sleep(ctx, announceEvery)
		if ctx.Err() != nil {
			return
		}
	}
}

// watch answers the first claim of another device by a claim of ours, and
// gives the address up at a second one soon after (RFC 5227 2.4 b).
func (d *defence) watch() {
	var last time.Time
	for {
		who, err := d.rival(false)
		if err != nil {
			return // closed, or the link is gone
		}
		if !last.IsZero() && time.Since(last) < defendAtMostPer {
			select {
			case d.lost <- who:
			default:
			}
			return
		}
		last = time.Now()
		d.warn(who)
		if d.send(d.address) != nil {
			return
		}
	}
}

func (d *defence) close() {
	if d == nil {
		return
	}
	if d.end != nil {
		d.end()
	}
	d.conn.Close()
	d.work.Wait()
}
