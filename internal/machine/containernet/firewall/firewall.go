// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package firewall keeps the machine's packet rules for container networks:
// one nftables table, `inet wherry`, that nobody else writes.
//
// What the rules are is decided by rules.go and never changes while the
// machine runs; what they apply to is in sets and maps, and a Plan is the
// contents of those. So a container that comes or goes costs a few elements
// and not a new rule set, and the number of published ports does not slow a
// packet down.
//
// Rebuild replaces the whole table in one transaction: packets see the old
// rules or the new ones, never none. Add and Remove change elements, in one
// transaction too. When one of them is refused (somebody changed the table by
// hand) the caller rebuilds from what it knows. Without nftables in the kernel
// Rebuild says so, and the caller must not let the machine forward packets.
//
// The rules, by purpose:
//   - a packet from a network may not use the machine's loopback addresses;
//   - a packet to one of the machine's addresses and a published port goes to
//     the container, from outside, from the machine itself and from containers;
//   - what leaves a network for the outside takes the machine's address;
//   - networks do not reach each other, the outside reaches only published
//     ports, internal networks reach nothing, and the machine is a router for
//     nobody else. Containers are told so; the outside hears nothing.
package firewall

import (
	"fmt"
	"net/netip"
	"sync"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
)

// TableName is the table's name, in the family inet.
const TableName = "wherry"

// Bridge is a container network as packets see it.
type Bridge struct {
	Link     string
	Gateways []netip.Addr // the machine's own addresses on it
	Internal bool         // no way out, and none in
}

// Forward leads a port of the machine to a container.
type Forward struct {
	Protocol  uint8          // IPPROTO_TCP or IPPROTO_UDP
	Host      netip.AddrPort // unspecified address: every address of that family
	Container netip.AddrPort
}

// Plan is what the rules apply to.
type Plan struct {
	Bridges  []Bridge
	Forwards []Forward
}

// Table is the table in the kernel. The zero value is ready to use.
type Table struct {
	mu sync.Mutex // one transaction at a time; the library's set ids are global too
}

// sendBuffer has room for a transaction of tens of thousands of elements.
const sendBuffer = 16 << 20

func dial() (*nftables.Conn, error) {
	return nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		// Only the admin may exceed the limits of net.core, and we are.
		if err := c.SetWriteBuffer(sendBuffer); err != nil {
			return err
		}
		return c.SetReadBuffer(sendBuffer)
	}))
}

// Rebuild makes the table what plan says, whatever it was before.
func (t *Table) Rebuild(plan Plan) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, err := dial()
	if err != nil {
		return fmt.Errorf("reach nftables: %w", err)
	}
	table := newTable()
	c.AddTable(table) // so that deleting it cannot fail
	c.DelTable(table)
	c.AddTable(table)
	sets := newSets(table)
	for _, name := range setNames {
		if err := c.AddSet(sets[name], nil); err != nil {
			return fmt.Errorf("plan set %s: %w", name, err)
		}
	}
	for _, chain := range chains(table, sets) {
		c.AddChain(chain.Chain)
		for _, exprs := range chain.rules {
			c.AddRule(&nftables.Rule{Table: table, Chain: chain.Chain, Exprs: exprs})
		}
	}
	if err := eachChunk(plan, sets, c.SetAddElements); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write the table of container networks: %w", err)
	}
	return nil
}

// Add makes the rules apply to plan too.
func (t *Table) Add(plan Plan) error { return t.change(plan, (*nftables.Conn).SetAddElements) }

// Remove undoes Add. It fails when a part of plan is not there.
func (t *Table) Remove(plan Plan) error { return t.change(plan, (*nftables.Conn).SetDeleteElements) }

func (t *Table) change(plan Plan, do func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, err := dial()
	if err != nil {
		return fmt.Errorf("reach nftables: %w", err)
	}
	sets := newSets(newTable())
	apply := func(s *nftables.Set, elements []nftables.SetElement) error { return do(c, s, elements) }
	if err := eachChunk(plan, sets, apply); err != nil {
		return err
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("change the table of container networks: %w", err)
	}
	return nil
}

// Delete takes the table away.
func (t *Table) Delete() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, err := dial()
	if err != nil {
		return fmt.Errorf("reach nftables: %w", err)
	}
	table := newTable()
	c.AddTable(table)
	c.DelTable(table)
	return c.Flush()
}

// chunk bounds the elements of one message: a netlink attribute holds 64 KiB.
const chunk = 256

func eachChunk(plan Plan, sets map[string]*nftables.Set, do func(*nftables.Set, []nftables.SetElement) error) error {
	elements := plan.elements()
	for _, name := range setNames {
		rest := elements[name]
		for len(rest) > 0 {
			n := min(chunk, len(rest))
			if err := do(sets[name], rest[:n]); err != nil {
				return fmt.Errorf("plan %s: %w", name, err)
			}
			rest = rest[n:]
		}
	}
	return nil
}
