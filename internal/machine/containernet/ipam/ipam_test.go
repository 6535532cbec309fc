// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"errors"
	"net/netip"
	"testing"
)

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestNextSubnet(t *testing.T) {
	for _, c := range []struct {
		pool  string
		bits  int
		taken []string
		want  string // empty: exhausted
	}{
		{"172.20.0.0/14", 24, nil, "172.20.0.0/24"},
		{"172.20.0.0/14", 24, []string{"172.20.0.0/24"}, "172.20.1.0/24"},
		{"172.20.0.0/14", 24, []string{"172.20.0.128/25", "172.20.1.1/32"}, "172.20.2.0/24"},
		{"172.20.0.0/14", 24, []string{"172.16.0.0/12"}, ""},
		{"10.0.0.0/26", 24, nil, "10.0.0.0/26"},
		{"10.0.0.0/26", 24, []string{"10.0.0.0/8"}, ""},
		{"255.255.255.0/24", 25, []string{"255.255.255.0/24"}, ""},
		{"fd00:1:2::/48", 64, nil, "fd00:1:2::/64"},
		{"fd00:1:2::/48", 64, []string{"fd00:1:2::/64", "fd00:1:2:1::5/128"}, "fd00:1:2:2::/64"},
		{"fd00:1:2:ffff::/64", 64, []string{"fd00::/16"}, ""},
		{"fd00::/40", 48, []string{"fd00::/48"}, "fd00:0:1::/48"},
	} {
		got, err := NextSubnet(netip.MustParsePrefix(c.pool), c.bits, prefixes(c.taken...))
		if c.want == "" {
			if !errors.Is(err, ErrExhausted) {
				t.Errorf("NextSubnet(%s, %v) = %v, %v; want ErrExhausted", c.pool, c.taken, got, err)
			}
			continue
		}
		if err != nil || got.String() != c.want {
			t.Errorf("NextSubnet(%s, %v) = %v, %v; want %s", c.pool, c.taken, got, err, c.want)
		}
	}
}

func TestNextGoesRoundBeforeItReuses(t *testing.T) {
	subnet := netip.MustParsePrefix("10.0.0.0/29") // 1…6
	taken := map[uint32]bool{1: true}
	last := uint32(0)
	var got []uint32
	for range 7 {
		n, err := Next(subnet, last, func(n uint32) bool { return !taken[n] })
		if err != nil {
			t.Fatal(err)
		}
		got, last = append(got, n), n // given back at once
	}
	want := []uint32{2, 3, 4, 5, 6, 2, 3}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("numbers %v, want %v", got, want)
		}
	}
	if _, err := Next(subnet, 3, func(uint32) bool { return false }); !errors.Is(err, ErrExhausted) {
		t.Errorf("full subnet: %v", err)
	}
}

func TestHostAndNumber(t *testing.T) {
	for _, c := range []struct {
		subnet string
		n      uint32
		want   string
	}{
		{"172.20.3.0/24", 7, "172.20.3.7"},
		{"10.0.0.0/8", 1<<24 - 2, "10.255.255.254"},
		{"fd00:1::/64", 300, "fd00:1::12c"},
	} {
		p := netip.MustParsePrefix(c.subnet)
		a := Host(p, c.n)
		if a.String() != c.want {
			t.Errorf("Host(%s, %d) = %v, want %s", c.subnet, c.n, a, c.want)
		}
		if n := Number(p, a); n != c.n {
			t.Errorf("Number(%s, %v) = %d, want %d", c.subnet, a, n, c.n)
		}
	}
}

func TestUsable(t *testing.T) {
	for _, c := range []struct {
		subnet, addr string
		want         bool
	}{
		{"10.0.0.0/29", "10.0.0.0", false},
		{"10.0.0.0/29", "10.0.0.1", true},
		{"10.0.0.0/29", "10.0.0.6", true},
		{"10.0.0.0/29", "10.0.0.7", false},
		{"10.0.0.0/29", "10.0.0.8", false},
		{"fd00::/64", "fd00::", false},
		{"fd00::/64", "fd00::ffff:ffff:ffff:ffff", true},
		{"fd00::/64", "10.0.0.1", false},
	} {
		if got := Usable(netip.MustParsePrefix(c.subnet), netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("Usable(%s, %s) = %v, want %v", c.subnet, c.addr, got, c.want)
		}
	}
}

func TestRandomULA(t *testing.T) {
	a, b := RandomULA(), RandomULA()
	if a == b {
		t.Errorf("twice %v", a)
	}
	if !netip.MustParsePrefix("fd00::/8").Overlaps(a) || a.Bits() != 48 || a != a.Masked() {
		t.Errorf("%v is no /48 of fd00::/8", a)
	}
}
