// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package ipam chooses subnets for container networks and addresses in them.
// It is arithmetic: what is taken comes in, a choice comes out, nothing is kept.
package ipam

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net/netip"
)

// ErrExhausted means that a pool has no free subnet, or a subnet no free address.
var ErrExhausted = errors.New("none is free")

// Sizes of the subnets taken from pools.
const (
	Bits4 = 24
	Bits6 = 64
)

// maxSteps bounds the search of a large pool; it is far more networks than a machine has.
const maxSteps = 1 << 16

// NextSubnet returns the first subnet of pool with the given prefix length
// that overlaps nothing taken. A pool that is smaller is one subnet itself.
func NextSubnet(pool netip.Prefix, prefixLen int, taken []netip.Prefix) (netip.Prefix, error) {
	prefixLen = max(prefixLen, pool.Bits())
	addr := pool.Masked().Addr()
	for range maxSteps {
		p := netip.PrefixFrom(addr, prefixLen)
		if !pool.Contains(addr) {
			break
		}
		if !OverlapsAny(p, taken) {
			return p, nil
		}
		next, ok := add(addr, 1, addr.BitLen()-prefixLen)
		if !ok {
			break
		}
		addr = next
	}
	return netip.Prefix{}, fmt.Errorf("choose a subnet of %s: %w", pool, ErrExhausted)
}

// OverlapsAny tells whether p shares an address with any of others.
func OverlapsAny(p netip.Prefix, others []netip.Prefix) bool {
	_, found := Overlapping(p, others)
	return found
}

// Overlapping returns the first of others that shares an address with p.
func Overlapping(p netip.Prefix, others []netip.Prefix) (netip.Prefix, bool) {
	for _, o := range others {
		if p.Overlaps(o) {
			return o, true
		}
	}
	return netip.Prefix{}, false
}

// RandomULA returns a /48 of fd00::/8 that no other machine is likely to have.
func RandomULA() netip.Prefix {
	var b [16]byte
	b[0] = 0xfd
	binary.BigEndian.PutUint32(b[1:5], rand.Uint32())
	b[5] = byte(rand.Uint32())
	return netip.PrefixFrom(netip.AddrFrom16(b), 48)
}

// Host returns the address with number n in subnet; 0 is the subnet's own.
func Host(subnet netip.Prefix, n uint32) netip.Addr {
	a, _ := add(subnet.Masked().Addr(), uint64(n), 0)
	return a
}

// Number is the inverse of Host for addresses within the first 2³² of subnet.
func Number(subnet netip.Prefix, a netip.Addr) uint32 {
	base, addr := subnet.Masked().Addr().AsSlice(), a.AsSlice()
	tail := func(b []byte) uint32 { return binary.BigEndian.Uint32(b[len(b)-4:]) }
	return tail(addr) - tail(base)
}

// Usable tells whether a container or gateway may have a: not the subnet's
// first address, nor the last of an IPv4 one, which is broadcast.
func Usable(subnet netip.Prefix, a netip.Addr) bool {
	if !subnet.Contains(a) || a == subnet.Masked().Addr() {
		return false
	}
	return a.Is6() || Number(subnet, a) < size4(subnet)-1
}

// size4 is the number of addresses of an IPv4 subnet smaller than /0.
func size4(subnet netip.Prefix) uint32 { return 1 << (32 - subnet.Bits()) }

// Next returns the next free host number of an IPv4 subnet after last, in a
// circle, so that an address given back is the last to be given again. free is
// asked about numbers.
func Next(subnet4 netip.Prefix, last uint32, free func(n uint32) bool) (uint32, error) {
	usable := size4(subnet4) - 2 // without the first and the last
	for i := range usable {
		n := (last+i)%usable + 1
		if free(n) {
			return n, nil
		}
	}
	return 0, fmt.Errorf("choose an address in %s: %w", subnet4, ErrExhausted)
}

// add returns a + n·2^shift, and false when that is beyond the last address.
func add(a netip.Addr, n uint64, shift int) (netip.Addr, bool) {
	b := a.As16()
	hi, lo := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	addHi, addLo := uint64(0), uint64(0)
	if shift >= 64 {
		addHi = n << (shift - 64)
	} else {
		addLo = n << shift
		addHi = n >> 1 >> (63 - shift)
	}
	lo, carry := bits.Add64(lo, addLo, 0)
	hi, over := bits.Add64(hi, addHi, carry)
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	sum := netip.AddrFrom16(b)
	if a.Is4() {
		if !sum.Is4In6() {
			return netip.Addr{}, false
		}
		sum = sum.Unmap()
	}
	return sum, over == 0
}
