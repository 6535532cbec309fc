// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// mapZone is a zone of fixed content.
type mapZone struct {
	names   map[string][]netip.Addr
	ours    netip.Prefix
	outside bool
}

func (z mapZone) Addresses(name string) ([]netip.Addr, bool) { a, ok := z.names[name]; return a, ok }
func (z mapZone) Outside() bool                              { return z.outside }
func (z mapZone) Name(a netip.Addr) (string, bool) {
	for name, addrs := range z.names {
		for _, b := range addrs {
			if a == b {
				return name, true
			}
		}
	}
	return "", z.ours.Contains(a)
}

func sampleZone(outside bool) mapZone {
	z := mapZone{names: map[string][]netip.Addr{
		"web":  {netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")},
		"four": {netip.MustParseAddr("10.0.0.4")},
	}, ours: netip.MustParsePrefix("10.0.0.0/24"), outside: outside}
	for i := range 60 {
		z.names["many"] = append(z.names["many"], netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}))
	}
	return z
}

func query(t testing.TB, name string, kind dnsmessage.Type, edns uint16) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 0x1234, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}},
	}
	if edns > 0 {
		var h dnsmessage.ResourceHeader
		h.SetEDNS0(int(edns), 0, false)
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// summary is what matters of an answer: "code cut answers".
func summary(t testing.TB, b []byte) string {
	t.Helper()
	if b == nil {
		return "nothing"
	}
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		t.Fatalf("the answer cannot be read: %v", err)
	}
	if !m.Response || m.ID != 0x1234 {
		t.Errorf("answer with id %#x, response %v", m.ID, m.Response)
	}
	s := m.RCode.String()
	if m.Truncated {
		s += " cut"
	}
	for _, a := range m.Answers {
		if a.Header.TTL == 0 || a.Header.TTL > 60 {
			t.Errorf("time to live %d", a.Header.TTL)
		}
		switch body := a.Body.(type) {
		case *dnsmessage.AResource:
			s += " " + netip.AddrFrom4(body.A).String()
		case *dnsmessage.AAAAResource:
			s += " " + netip.AddrFrom16(body.AAAA).String()
		case *dnsmessage.PTRResource:
			s += " " + body.PTR.String()
		}
	}
	return s
}

func TestAnswer(t *testing.T) {
	const a, aaaa, ptr, txt = dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypePTR, dnsmessage.TypeTXT
	for _, c := range []struct {
		name   string
		kind   dnsmessage.Type
		inside bool
		want   string
	}{
		{"web.", a, false, "RCodeSuccess 10.0.0.2"},
		{"WeB.", aaaa, false, "RCodeSuccess fd00::2"},
		{"four.", aaaa, false, "RCodeSuccess"},
		{"web.", txt, false, "RCodeSuccess"},
		{"example.org.", a, false, "forward"},
		{"example.org.", a, true, "RCodeNameError"},
		{".", dnsmessage.TypeNS, false, "forward"},
		{"2.0.0.10.in-addr.arpa.", ptr, false, "RCodeSuccess web."},
		{"2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", ptr, false, "RCodeSuccess web."},
		{"9.0.0.10.in-addr.arpa.", ptr, false, "RCodeNameError"},
		{"9.9.9.9.in-addr.arpa.", ptr, false, "forward"},
		{"x.0.0.10.in-addr.arpa.", ptr, false, "forward"},
		{"1.2.ip6.arpa.", ptr, false, "forward"},
	} {
		reply, forward := answer(query(t, c.name, c.kind, 0), sampleZone(!c.inside), false)
		got := "forward"
		if !forward {
			got = summary(t, reply)
		}
		if got != c.want {
			t.Errorf("%s %v: %s, want %s", c.name, c.kind, got, c.want)
		}
	}
}

func TestAnswerSizes(t *testing.T) {
	for _, c := range []struct {
		edns    uint16
		stream  bool
		cut     bool
		atMost  int
		answers int
	}{
		{0, false, true, 512, 0},
		{100, false, true, 512, 0}, // less than plain DNS allows is not believed
		{4096, false, false, 1232, 60},
		{0, true, false, 65535, 60},
	} {
		reply, _ := answer(query(t, "many.", dnsmessage.TypeA, c.edns), sampleZone(true), c.stream)
		var m dnsmessage.Message
		if err := m.Unpack(reply); err != nil {
			t.Fatal(err)
		}
		if m.Truncated != c.cut || len(reply) > c.atMost || len(m.Answers) != c.answers {
			t.Errorf("edns %d, stream %v: %d bytes, cut %v, %d answers", c.edns, c.stream, len(reply), m.Truncated, len(m.Answers))
		}
		if hasOPT := len(m.Additionals) == 1; hasOPT != (c.edns > 0) {
			t.Errorf("edns %d: OPT in the answer: %v", c.edns, hasOPT)
		}
	}
}

func TestAnswerSpreads(t *testing.T) {
	first := map[string]bool{}
	for range 200 {
		reply, _ := answer(query(t, "many.", dnsmessage.TypeA, 4096), sampleZone(true), false)
		var m dnsmessage.Message
		if err := m.Unpack(reply); err != nil {
			t.Fatal(err)
		}
		first[m.Answers[0].Body.GoString()] = true
	}
	if len(first) < 10 {
		t.Errorf("in 200 answers %d different containers came first", len(first))
	}
}

func TestAnswerToNonsense(t *testing.T) {
	good := query(t, "web.", dnsmessage.TypeA, 0)
	response := append([]byte(nil), good...)
	response[2] |= 0x80
	update := append([]byte(nil), good...)
	update[2] |= 5 << 3
	two := append([]byte(nil), good...)
	two[5] = 2
	none := append([]byte(nil), good[:12]...)
	none[5] = 0
	loop := append(append([]byte(nil), good[:12]...), 0xc0, 12, 0, 1, 0, 1)
	for name, c := range map[string]struct {
		query []byte
		want  string
	}{
		"empty":              {nil, "nothing"},
		"short":              {good[:5], "nothing"},
		"a response":         {response, "nothing"},
		"an update":          {update, "RCodeNotImplemented"},
		"two questions":      {two, "RCodeFormatError"},
		"no question":        {none, "RCodeFormatError"},
		"cut in the name":    {good[:14], "RCodeFormatError"},
		"a name in a circle": {loop, "RCodeFormatError"},
	} {
		reply, forward := answer(c.query, sampleZone(true), false)
		if got := summary(t, reply); got != c.want || forward {
			t.Errorf("%s: %s, forward %v; want %s", name, got, forward, c.want)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(query(f, "web.", dnsmessage.TypeA, 0))
	f.Add(query(f, "many.", dnsmessage.TypeA, 4096))
	f.Add(query(f, "2.0.0.10.in-addr.arpa.", dnsmessage.TypePTR, 512))
	f.Fuzz(func(t *testing.T, b []byte) {
		reply, _ := answer(b, sampleZone(false), false)
		if len(reply) > ednsSize {
			t.Errorf("%d bytes", len(reply))
		}
		if reply != nil {
			var m dnsmessage.Message
			if err := m.Unpack(reply); err != nil {
				t.Errorf("the answer cannot be read: %v", err)
			}
		}
		answers(b, query(t, "web.", dnsmessage.TypeA, 0))
	})
}

// upstream is a server that answers by a function; nil is silence.
func upstream(t *testing.T, reply func(query []byte) [][]byte) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 65535)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			for _, r := range reply(append([]byte(nil), b[:n]...)) {
				c.WriteToUDPAddrPort(r, from)
			}
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// answered makes a good answer, with padding to a size.
func answered(q []byte, size int) []byte {
	var m dnsmessage.Message
	if m.Unpack(q) != nil {
		return nil
	}
	m.Response, m.Additionals = true, nil
	h := dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 60}
	m.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AResource{A: [4]byte{9, 9, 9, 9}}}}
	for n := 0; n < size; n += 200 {
		m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.TXTResource{TXT: []string{string(make([]byte, 180))}}})
	}
	b, _ := m.Pack()
	return b
}

func TestForward(t *testing.T) {
	good := upstream(t, func(q []byte) [][]byte { return [][]byte{answered(q, 0)} })
	silent := upstream(t, func([]byte) [][]byte { return nil })
	forger := upstream(t, func(q []byte) [][]byte {
		otherID, otherName := answered(q, 0), answered(q, 0)
		otherID[0] ^= 0xff
		otherName[13] ^= 1
		return [][]byte{otherID, otherName, q, nil, []byte("junk"), answered(q, 0)}
	})
	huge := upstream(t, func(q []byte) [][]byte { return [][]byte{answered(q, 9000)} })
	closed := netip.MustParseAddrPort("127.0.0.1:9")
	for _, c := range []struct {
		name      string
		upstreams []netip.AddrPort
		want      string
	}{
		{"good", []netip.AddrPort{good}, "RCodeSuccess 9.9.9.9"},
		{"closed, good", []netip.AddrPort{closed, good}, "RCodeSuccess 9.9.9.9"},
		{"silent, good", []netip.AddrPort{silent, good}, "RCodeSuccess 9.9.9.9"},
		{"forged before real", []netip.AddrPort{forger}, "RCodeSuccess 9.9.9.9"},
		{"larger than we take", []netip.AddrPort{huge}, "RCodeSuccess cut"},
		{"none", nil, "RCodeServerFailure"},
		{"closed", []netip.AddrPort{closed}, "RCodeServerFailure"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &Server{Upstreams: func() []netip.AddrPort { return c.upstreams }, Log: slog.New(slog.DiscardHandler)}
			start := time.Now()
			got := summary(t, s.forward(context.Background(), query(t, "example.org.", dnsmessage.TypeA, 0), "udp"))
			if got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// A container that asks without end does not stop the others.
func TestBounds(t *testing.T) {
	var b busy
	greedy, other := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	for i := range 5 {
		if got := b.enter(greedy, 10, 3); got != (i < 3) {
			t.Errorf("entry %d: %v", i, got)
		}
	}
	if !b.enter(other, 10, 3) {
		t.Error("the other one is kept out")
	}
	for range 3 {
		b.leave(greedy)
	}
	b.leave(other)
	if b.all != 0 || len(b.by) != 0 {
		t.Errorf("afterwards %s", fmt.Sprint(b.all, b.by))
	}
}
