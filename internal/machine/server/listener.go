// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// limitedListener closes connections at once that are over the limits, so that
// one address cannot keep all others out.
type limitedListener struct {
	net.Listener
	total, each int
	log         *slog.Logger

	mu       sync.Mutex
	open     int
	byAddr   map[netip.Addr]int
	reported time.Time
}

func limitConnections(l net.Listener, total, each int, log *slog.Logger) net.Listener {
	return &limitedListener{Listener: l, total: total, each: each, log: log, byAddr: map[netip.Addr]int{}}
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		addr := remoteAddr(c)
		if l.take(addr) {
			return &limitedConn{Conn: c, release: sync.OnceFunc(func() { l.give(addr) })}, nil
		}
		c.Close()
	}
}

func (l *limitedListener) take(addr netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open < l.total && l.byAddr[addr] < l.each {
		l.open++
		l.byAddr[addr]++
		return true
	}
	if time.Since(l.reported) > time.Minute { // a flood must not flood the log
		l.reported = time.Now()
		l.log.Warn("connections refused: too many are open", "address", addr.String(), "open", l.open)
	}
	return false
}

func (l *limitedListener) give(addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.byAddr[addr]--; l.byAddr[addr] == 0 {
		delete(l.byAddr, addr)
	}
}

// remoteAddr returns what is counted as one caller: an IPv4 address or the /64 of an IPv6 one.
func remoteAddr(c net.Conn) netip.Addr {
	tcp, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	addr := tcp.AddrPort().Addr().Unmap().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return addr
}

type limitedConn struct {
	net.Conn
	release func()
}

func (c *limitedConn) Close() error {
	c.release()
	return c.Conn.Close()
}
