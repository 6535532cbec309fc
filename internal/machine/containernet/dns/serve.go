// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Bounds. They are far above what containers need in normal work.
const (
	maxForwards       = 256
	maxForwardsOfOne  = 64
	maxConns          = 128
	maxConnsOfOne     = 16
	maxQueriesPerConn = 128
	maxPacket         = 4096
	connIdle          = 10 * time.Second
)

func (s *Server) servePackets(ctx context.Context, c *net.UDPConn) {
	buf := make([]byte, maxPacket)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // an ICMP error about an earlier answer
			continue
		}
		s.packet(ctx, c, from, buf[:n])
	}
}

func (s *Server) packet(ctx context.Context, c *net.UDPConn, from netip.AddrPort, query []byte) {
	asker := from.Addr().Unmap()
	reply, forward := s.answer(asker, query, false)
	if !forward {
		if reply != nil {
			c.WriteToUDPAddrPort(reply, from)
		}
		return
	}
	if !s.busy.enter(asker, maxForwards, maxForwardsOfOne) {
		return
	}
	query = slices.Clone(query) // the buffer is for the next packet
	go func() {
		defer s.busy.leave(asker)
		if reply := s.forward(ctx, query, "udp"); reply != nil {
			c.WriteToUDPAddrPort(reply, from)
		}
	}()
}

func (s *Server) serveConns(ctx context.Context, l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors: let some be closed
			time.Sleep(100 * time.Millisecond)
			continue
		}
		asker := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if !s.conns.enter(asker, maxConns, maxConnsOfOne) {
			c.Close()
			continue
		}
		go func() {
			defer s.conns.leave(asker)
			defer c.Close()
			defer context.AfterFunc(ctx, func() { c.Close() })()
			s.conn(ctx, c, asker)
		}()
	}
}

// conn answers the questions of one connection, one after the other.
func (s *Server) conn(ctx context.Context, c net.Conn, asker netip.Addr) {
	for range maxQueriesPerConn {
		c.SetDeadline(time.Now().Add(connIdle))
		query, err := readMessage(c, maxPacket)
		if err != nil {
			return
		}
		reply, forward := s.answer(asker, query, true)
		if forward {
			reply = s.forward(ctx, query, "tcp")
		}
		if reply == nil || writeMessage(c, reply) != nil {
			return
		}
	}
}

func (s *Server) answer(asker netip.Addr, query []byte, stream bool) (reply []byte, forward bool) {
	zone, known := s.Zone(asker)
	if !known {
		return refuse(query), false
	}
	return answer(query, zone, stream)
}

var errTooLong = errors.New("message too long")

// readMessage reads a message behind its length, as on TCP.
func readMessage(r io.Reader, most int) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(size[:]))
	if n > most {
		return nil, errTooLong
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeMessage(w io.Writer, b []byte) error {
	framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(b)), uint16(len(b)))
	_, err := w.Write(append(framed, b...))
	return err
}
