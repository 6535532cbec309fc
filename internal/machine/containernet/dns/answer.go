// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// ttl is in seconds: a container that comes back has another address.
const ttl = 5

// Sizes of answers by UDP: without EDNS, and the most that we send with it,
// which no link cuts into fragments.
const (
	plainSize = 512
	ednsSize  = 1232
	tcpSize   = 65535
)

const headerLen = 12

// question is a query as far as we read it.
type question struct {
	header dnsmessage.Header
	dnsmessage.Question
	name string // of Question, in lower case, without the final dot
	edns bool
	size int // of the answer that the asker can take
}

// answer answers what zone knows. forward is true when the question is for
// somebody else; reply is nil when there is nothing to say at all.
func answer(query []byte, zone Zone, stream bool) (reply []byte, forward bool) {
	q, code, ok := parse(query, stream)
	switch {
	case !ok:
		return nil, false
	case code != dnsmessage.RCodeSuccess:
		return q.fail(code), false
	case q.Class != dnsmessage.ClassINET:
		return q.fail(dnsmessage.RCodeRefused), false
	}
	if addrs, known := zone.Addresses(q.name); known {
		return q.addresses(addrs), false
	}
	if a, ok := reverse(q.name); ok {
		if name, ours := zone.Name(a); ours {
			return q.pointer(name), false
		}
	}
	if !zone.Outside() {
		return q.fail(dnsmessage.RCodeNameError), false
	}
	return nil, true
}

// parse reads a query. When ok is false it is not one and gets no answer;
// otherwise code is what is wrong with it.
func parse(query []byte, stream bool) (q question, code dnsmessage.RCode, ok bool) {
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil || header.Response {
		return q, 0, false
	}
	q = question{header: header, size: plainSize}
	if stream {
		q.size = tcpSize
	}
	if header.OpCode != 0 {
		return q, dnsmessage.RCodeNotImplemented, true
	}
	questions, err := p.AllQuestions()
	if err != nil || len(questions) != 1 {
		return q, dnsmessage.RCodeFormatError, true
	}
	q.Question = questions[0]
	q.name = strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return q, dnsmessage.RCodeFormatError, true
	}
	q.readEDNS(&p, stream)
	return q, dnsmessage.RCodeSuccess, true
}

func (q *question) readEDNS(p *dnsmessage.Parser, stream bool) {
	for {
		h, err := p.AdditionalHeader()
		if err != nil {
			return
		}
		if h.Type == dnsmessage.TypeOPT {
			q.edns = true
			if !stream {
				q.size = min(max(int(h.Class), plainSize), ednsSize)
			}
			return
		}
		if p.SkipAdditional() != nil {
			return
		}
	}
}

// addresses answers with those of the type asked for, in random order, so that
// askers spread over the containers that share an alias. Another type of a
// known name has no records.
func (q question) addresses(addrs []netip.Addr) []byte {
	addrs = slices.Clone(addrs)
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	return q.build(dnsmessage.RCodeSuccess, func(b *dnsmessage.Builder, h dnsmessage.ResourceHeader) error {
		for _, a := range addrs {
			var err error
			switch {
			case a.Is4() && q.Type == dnsmessage.TypeA:
				err = b.AResource(h, dnsmessage.AResource{A: a.As4()})
			case a.Is6() && q.Type == dnsmessage.TypeAAAA:
				err = b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: a.As16()})
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// pointer answers who has an address: an empty name is nobody.
func (q question) pointer(name string) []byte {
	target, err := dnsmessage.NewName(name + ".")
	if name == "" || err != nil {
		return q.fail(dnsmessage.RCodeNameError)
	}
	return q.build(dnsmessage.RCodeSuccess, func(b *dnsmessage.Builder, h dnsmessage.ResourceHeader) error {
		if q.Type != dnsmessage.TypePTR {
			return nil
		}
		return b.PTRResource(h, dnsmessage.PTRResource{PTR: target})
	})
}

func (q question) fail(code dnsmessage.RCode) []byte { return q.build(code, nil) }

// build writes an answer, or one that says it was cut when it is too long.
func (q question) build(code dnsmessage.RCode, fill func(*dnsmessage.Builder, dnsmessage.ResourceHeader) error) []byte {
	b, err := q.pack(code, false, fill)
	if err == nil && len(b) > q.size {
		b, err = q.pack(code, true, nil)
	}
	if err != nil {
		return nil
	}
	return b
}

func (q question) pack(code dnsmessage.RCode, cut bool, fill func(*dnsmessage.Builder, dnsmessage.ResourceHeader) error) ([]byte, error) {
	b := dnsmessage.NewBuilder(make([]byte, 0, plainSize), dnsmessage.Header{
		ID: q.header.ID, Response: true, OpCode: q.header.OpCode, Authoritative: fill != nil, Truncated: cut,
		RecursionDesired: q.header.RecursionDesired, RecursionAvailable: true, RCode: code,
	})
	b.EnableCompression()
	err := b.StartQuestions()
	if err == nil && q.Name.Length > 0 {
		err = b.Question(q.Question)
	}
	if err == nil && fill != nil {
		if err = b.StartAnswers(); err == nil {
			err = fill(&b, dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: ttl})
		}
	}
	if err == nil && q.edns {
		err = appendEDNS(&b)
	}
	if err != nil {
		return nil, err
	}
	return b.Finish()
}

func appendEDNS(b *dnsmessage.Builder) error {
	if err := b.StartAdditionals(); err != nil {
		return err
	}
	var h dnsmessage.ResourceHeader
	if err := h.SetEDNS0(ednsSize, dnsmessage.RCodeSuccess, false); err != nil {
		return err
	}
	return b.OPTResource(h, dnsmessage.OPTResource{})
}

// refuse and serverFailure are made from the query's bytes alone.
func refuse(query []byte) []byte        { return failure(query, dnsmessage.RCodeRefused) }
func serverFailure(query []byte) []byte { return failure(query, dnsmessage.RCodeServerFailure) }

func failure(query []byte, code dnsmessage.RCode) []byte {
	q, _, ok := parse(query, false)
	if !ok {
		return nil
	}
	return q.fail(code)
}

// truncated turns an answer that is too long to pass on into one that makes
// the asker come by TCP.
func truncated(query []byte) []byte {
	q, _, ok := parse(query, false)
	if !ok {
		return nil
	}
	b, _ := q.pack(dnsmessage.RCodeSuccess, true, nil)
	return b
}

// setID writes the id into a message.
func setID(message []byte, id uint16) { binary.BigEndian.PutUint16(message, id) }

// reverse reads 4.3.2.1.in-addr.arpa and its counterpart of IPv6.
func reverse(name string) (netip.Addr, bool) {
	if labels, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		return reverse4(strings.Split(labels, "."))
	}
	if labels, ok := strings.CutSuffix(name, ".ip6.arpa"); ok {
		return reverse6(strings.Split(labels, "."))
	}
	return netip.Addr{}, false
}

func reverse4(labels []string) (netip.Addr, bool) {
	var b [4]byte
	if len(labels) != len(b) {
		return netip.Addr{}, false
	}
	for i, l := range labels {
		n, err := strconv.ParseUint(l, 10, 8)
		if err != nil {
			return netip.Addr{}, false
		}
		b[3-i] = byte(n)
	}
	return netip.AddrFrom4(b), true
}

func reverse6(labels []string) (netip.Addr, bool) {
	slices.Reverse(labels)
	b, err := hex.DecodeString(strings.Join(labels, ""))
	if len(labels) != 32 || err != nil || len(b) != 16 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16([16]byte(b)), true
}
