// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package dns is the name server that containers ask.
//
// It listens on the machine's addresses on each container network, port 53,
// UDP and TCP, and takes questions only from that network's bridge. Who asks
// is known by the address, and a Zone says what that one may see: names of the
// containers on its networks are answered from there, with a small time to
// live, and everything else is passed on to the machine's own name servers,
// byte for byte, with a random id and port, and the answer is passed back when
// it is one to that question. An answer too long for UDP is marked as cut; the
// asker comes again by TCP and so does the question to the server above.
//
// Questions come from anybody's containers: their size, the number in flight
// (in all and for one asker) and the time for each are bounded. What exceeds
// the bounds is dropped, as a lost packet would be. When no server above
// answers, the asker is told so (SERVFAIL). An asker nobody knows is refused.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Zone is what one asker may see. Names are in lower case, without a final dot.
type Zone interface {
	// Addresses returns the addresses of a container by name; known is false
	// when there is none of that name.
	Addresses(name string) (addrs []netip.Addr, known bool)
	// Name returns the name of the container that has an address; ours tells
	// whether the address is in a container network at all.
	Name(a netip.Addr) (name string, ours bool)
	// Outside tells whether other names exist for the asker.
	Outside() bool
}

// Server is ready when Zone and Upstreams are set.
type Server struct {
	Zone      func(asker netip.Addr) (Zone, bool)
	Upstreams func() []netip.AddrPort // asked for each question: they change at run time
	Log       *slog.Logger

	mu       sync.Mutex
	networks map[string]*listeners // by link
	busy     busy
	conns    busy
}

// listeners are the sockets of one network.
type listeners struct {
	cancel context.CancelFunc
	close  []func() error
	done   sync.WaitGroup
}

const port = 53

// Listen serves a network on these addresses of its link. Doing it again
// replaces the sockets.
func (s *Server) Listen(link string, addrs []netip.Addr) error {
	s.Close(link)
	ctx, cancel := context.WithCancel(context.Background())
	l := &listeners{cancel: cancel}
	var errs []error
	for _, a := range addrs {
		errs = append(errs, s.listen(ctx, l, link, netip.AddrPortFrom(a, port)))
	}
	s.mu.Lock()
	if s.networks == nil {
		s.networks = map[string]*listeners{}
	}
	s.networks[link] = l
	s.mu.Unlock()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("serve names on %s: %w", link, err)
	}
	return nil
}

func (s *Server) listen(ctx context.Context, l *listeners, link string, at netip.AddrPort) error {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return bindToDevice(c, link) }}
	packets, err := config.ListenPacket(ctx, "udp", at.String())
	if err != nil {
		return err
	}
	l.close = append(l.close, packets.Close)
	l.done.Go(func() { s.servePackets(ctx, packets.(*net.UDPConn)) })
	conns, err := config.Listen(ctx, "tcp", at.String())
	if err != nil {
		return err
	}
	l.close = append(l.close, conns.Close)
	l.done.Go(func() { s.serveConns(ctx, conns) })
	return nil
}

// bindToDevice lets only packets in that came by the link: without it a
// container could ask the name server of another network.
func bindToDevice(c syscall.RawConn, link string) (err error) {
	ctlErr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), link) })
	return errors.Join(ctlErr, err)
}

// Close stops serving a network.
func (s *Server) Close(link string) {
	s.mu.Lock()
	l := s.networks[link]
	delete(s.networks, link)
	s.mu.Unlock()
	if l == nil {
		return
	}
	l.cancel()
	for _, c := range l.close {
		c()
	}
	l.done.Wait()
}

// busy counts what is under way, in all and by asker. The zero value is idle.
type busy struct {
	mu  sync.Mutex
	all int
	by  map[netip.Addr]int
}

// enter reports whether one more is within the bounds; then leave must follow.
func (b *busy) enter(a netip.Addr, most, mostOfOne int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all >= most || b.by[a] >= mostOfOne {
		return false
	}
	if b.by == nil {
		b.by = map[netip.Addr]int{}
	}
	b.all++
	b.by[a]++
	return true
}

func (b *busy) leave(a netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all--
	if b.by[a]--; b.by[a] == 0 {
		delete(b.by, a)
	}
}
