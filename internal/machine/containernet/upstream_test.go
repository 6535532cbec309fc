// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package containernet

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// startUpstream is a name server of the machine: it knows known.example alone.
func startUpstream(t *testing.T) netip.AddrPort {
	t.Helper()
	packets, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	at := packets.LocalAddr().(*net.UDPAddr).AddrPort()
	conns, err := net.Listen("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { packets.Close(); conns.Close() })
	go func() {
		b := make([]byte, 4096)
		for {
			n, from, err := packets.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			packets.WriteToUDPAddrPort(upstreamAnswer(b[:n]), from)
		}
	}()
	go func() {
		for {
			c, err := conns.Accept()
			if err != nil {
				return
			}
			var size [2]byte
			if _, err := io.ReadFull(c, size[:]); err == nil {
				b := make([]byte, binary.BigEndian.Uint16(size[:]))
				io.ReadFull(c, b)
				reply := upstreamAnswer(b)
				c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
			}
			c.Close()
		}
	}()
	return netip.AddrPortFrom(at.Addr(), at.Port())
}

func upstreamAnswer(query []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil {
		return nil
	}
	q := m.Questions[0]
	m.Response, m.Additionals = true, nil
	if q.Name.String() != "known.example." {
		m.RCode = dnsmessage.RCodeNameError
	} else if q.Type == dnsmessage.TypeA {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60},
			Body:   &dnsmessage.AResource{A: [4]byte{198, 51, 100, 7}},
		}}
	}
	b, _ := m.Pack()
	return b
}
