// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Askers wait five seconds as a rule; all servers above get their turn before.
const (
	maxUpstreams    = 3
	upstreamTimeout = 1500 * time.Millisecond
)

// forward asks the servers above in order, and answers SERVFAIL when none does.
func (s *Server) forward(ctx context.Context, query []byte, network string) []byte {
	upstreams := s.Upstreams()
	for _, server := range upstreams[:min(len(upstreams), maxUpstreams)] {
		reply, err := exchange(ctx, server, query, network)
		if err == nil {
			return reply
		}
		s.Log.Debug("name server does not answer", "server", server, "error", err)
	}
	return serverFailure(query)
}

// exchange asks one server and returns its answer under the query's id.
func exchange(ctx context.Context, server netip.AddrPort, query []byte, network string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, upstreamTimeout)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, network, server.String()) // its own port: harder to guess
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()

	asked := slices.Clone(query)
	setID(asked, uint16(rand.Uint32()))
	var reply []byte
	if network == "tcp" {
		reply, err = askStream(c, asked)
	} else {
		reply, err = askPacket(c, asked)
	}
	if err == nil && len(reply) < headerLen {
		err = errors.New("the answer is no message")
	}
	if err != nil {
		return nil, err
	}
	setID(reply, binary.BigEndian.Uint16(query))
	return reply, nil
}

func askStream(c net.Conn, query []byte) ([]byte, error) {
	if err := writeMessage(c, query); err != nil {
		return nil, err
	}
	reply, err := readMessage(c, tcpSize)
	if err == nil && !answers(reply, query) {
		err = errors.New("the answer is to another question")
	}
	return reply, err
}

// askPacket waits for the answer and overlooks what is not one: it may be forged.
func askPacket(c net.Conn, query []byte) ([]byte, error) {
	if _, err := c.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, maxPacket+1)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		if !answers(buf[:n], query) {
			continue
		}
		if n > maxPacket {
			return truncated(query), nil
		}
		return buf[:n], nil
	}
}

// answers tells whether reply is one to query: same id, same question.
func answers(reply, query []byte) bool {
	var r, q dnsmessage.Parser
	rh, err := r.Start(reply)
	if err != nil || !rh.Response {
		return false
	}
	qh, err := q.Start(query)
	if err != nil || rh.ID != qh.ID {
		return false
	}
	asked, err := q.Question()
	if err != nil {
		return false
	}
	// A server that could not read the question may leave it out.
	got, err := r.Question()
	if errors.Is(err, dnsmessage.ErrSectionDone) {
		return rh.RCode != dnsmessage.RCodeSuccess
	}
	return err == nil && got.Type == asked.Type && got.Class == asked.Class &&
		strings.EqualFold(got.Name.String(), asked.Name.String())
}
