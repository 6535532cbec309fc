// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/atomicfile"
	"wherry.example/wherry/internal/linux/netlink"
)

// uplink is a managed link with what is known beyond the kernel.
type uplink struct {
	observed
	entry     config.Interface
	announced announced
	v4, v6    tenancy
}

// tenancy is a link's lease of one protocol, and the goroutine that keeps it.
type tenancy struct {
	file    string // where the lease is kept
	lease   *Lease
	problem string // why there is none

	stop  func()      // ends the keeper; nil: none runs
	terms terms       // that the keeper has
	run   int         // number of the keeper, so that the words of an earlier one are not heard
	fresh bool        // the lease is in force on this link: there is no need to confirm it
	taken chan string // tells the keeper who else uses the address
}

// terms are what a keeper works by; with others, another one must.
type terms struct {
	mac  string
	mode mode
}

// mode is what DHCP is to be asked for.
type mode int

const (
	askNothing mode = iota
	askServers
	askAddress
)

// leaseEvent is what the keeper of a link's lease says.
type leaseEvent struct {
	link, run int
	six       bool
	lease     *Lease // nil: lost
	problem   string
}

// Files in /run/wherry/network, with the link's name between.
const (
	leaseFile     = "lease-"
	lease6File    = "lease6-"
	announcedFile = "ra-"
)

func (u *uplink) wanted() wanted {
	return wanted{Config: u.entry, Lease: u.v4.lease, Lease6: u.v6.lease, Now: sinceBoot()}
}

func (u *uplink) tenancies() []*tenancy { return []*tenancy{&u.v4, &u.v6} }

// modes are what this link's DHCP is to be asked for now: in IPv4 what the
// configuration says, in IPv6 what the routers say.
func (u *uplink) modes() (v4, v6 mode) {
	if u.entry.UseDHCP() {
		v4 = askAddress
	}
	switch {
	case !u.listensToRouters():
	case !u.Router.Heard:
		v6 = u.v6.terms.mode // as it was when the carrier went, or wherryd ended
	case u.Router.Managed:
		v6 = askAddress
	case u.Router.Other:
		v6 = askServers
	}
	return v4, v6
}

func (u *uplink) listensToRouters() bool {
	return u.entry.IPv6 == "" || u.entry.IPv6 == config.IPv6Auto
}

// know takes over what was observed: new links are added, those that are gone forgotten.
func (n *Network) know(links []observed) {
	for index, u := range n.links {
		if !slices.ContainsFunc(links, func(o observed) bool { return o.Index == index }) {
			for _, t := range u.tenancies() {
				n.endLease(t)
				n.forget(u, t.file)
			}
			n.forget(u, announcedFile)
			delete(n.links, index)
		}
	}
	for _, o := range links {
		u := n.links[o.Index]
		if u == nil {
			u = &uplink{observed: o, v4: tenancy{file: leaseFile}, v6: tenancy{file: lease6File}}
			n.links[o.Index] = u
			n.load(u, announcedFile, &u.announced)
			n.adopt(u, &u.v4)
			n.adopt(u, &u.v6)
		}
		u.observed, u.entry = o, entryFor(o.Link, n.machine.Network.Interfaces)
		if !u.listensToRouters() {
			u.announced = announced{}
		}
	}
}

// leaseAll starts and ends keepers as configuration, routers and carriers demand.
func (n *Network) leaseAll(ctx context.Context) {
	for _, u := range n.links {
		v4, v6 := u.modes()
		n.leaseOne(ctx, u, &u.v4, terms{u.MAC.String(), v4})
		n.leaseOne(ctx, u, &u.v6, terms{u.MAC.String(), v6})
	}
}

func (n *Network) leaseOne(ctx context.Context, u *uplink, t *tenancy, now terms) {
	if t.stop != nil && t.terms != now {
		n.endLease(t)
	}
	switch {
	case now.mode == askNothing:
		n.endLease(t)
		t.problem = ""
		if t.lease != nil {
			t.lease = nil
			n.forget(u, t.file)
		}
	case !u.Carrier:
		n.endLease(t) // and keep the lease: it is confirmed when the carrier returns
		t.fresh, t.problem = false, ""
		if t.lease != nil && t.lease.left(sinceBoot()) <= 0 {
			t.lease = nil
		}
	case t.stop == nil:
		n.beginLease(ctx, u, t, now)
	}
}

// adopt takes over the lease that an earlier wherryd left. Where its address
// is still on a link that runs, it is in force without asking.
func (n *Network) adopt(u *uplink, t *tenancy) {
	var l Lease
	if n.load(u, t.file, &l) && l.MAC == u.MAC.String() && l.left(sinceBoot()) > 0 {
		t.lease, t.fresh = &l, !l.Address.IsValid() || hasAddress(u.Addresses, l.Address.Addr())
		t.terms.mode = askServers
		if l.Address.IsValid() {
			t.terms.mode = askAddress
		}
	}
}

// beginLease starts the keeper of a link's lease.
func (n *Network) beginLease(ctx context.Context, u *uplink, t *tenancy, by terms) {
	ctx, t.stop = context.WithCancel(ctx)
	t.run++
	t.terms, t.taken = by, make(chan string, 1)
	e := leaseEvent{link: u.Index, run: t.run, six: t == &u.v6}
	say := func(e leaseEvent) {
		select {
		case n.leases <- e:
		case <-ctx.Done():
		}
	}
	k := &keeper{
		protocol: n.protocol(u, t), log: n.o.Log, kind: "DHCP", link: u.Name, now: sinceBoot, taken: t.taken,
		got:  func(l *Lease) { e.lease, e.problem = l, ""; say(e) },
		lost: func(why string) { e.lease, e.problem = nil, why; say(e) },
	}
	if e.six {
		k.kind = "DHCPv6"
	}
	lease, fresh := t.lease, t.fresh
	n.clients.Go(func() { k.run(ctx, lease, fresh) })
}

func (n *Network) protocol(u *uplink, t *tenancy) protocol {
	if t == &u.v6 {
		return &dhcp6{link: u.Name, mac: u.MAC, address: t.terms.mode == askAddress, now: sinceBoot}
	}
	return &dhcp4{log: n.o.Log, link: u.Name, mac: u.MAC, name: n.machine.Name, now: sinceBoot, taken: t.taken}
}

func (n *Network) endLease(t *tenancy) {
	if t.stop != nil {
		t.stop()
		t.stop = nil
	}
}

// takeLease says whether the event is news.
func (n *Network) takeLease(e leaseEvent) bool {
	u := n.links[e.link]
	if u == nil {
		return false
	}
	t := &u.v4
	if e.six {
		t = &u.v6
	}
	if t.stop == nil || t.run != e.run {
		return false
	}
	t.lease, t.problem, t.fresh = e.lease, e.problem, e.lease != nil
	if e.lease == nil {
		n.forget(u, t.file)
	} else {
		n.save(u, t.file, e.lease)
	}
	return true
}

// takeDuplicate gives up an address by DHCPv6 of which the kernel found that
// another device has it. It is not set again while the keeper declines it.
func (n *Network) takeDuplicate(e netlink.Event) {
	u := n.links[e.Address]
	if u == nil || !e.Duplicate.IsValid() || u.v6.stop == nil || u.v6.lease == nil || u.v6.lease.Address.Addr() != e.Duplicate {
		return
	}
	u.v6.lease, u.v6.fresh = nil, false
	n.forget(u, u.v6.file)
	select {
	case u.v6.taken <- "another device on the link":
	default:
	}
}

func (n *Network) file(u *uplink, kind string) string {
	return filepath.Join(n.o.RunDir, "network", kind+u.Name+".json")
}

// save keeps a value for the next wherryd. Without it that one asks again, so a failure is only logged.
func (n *Network) save(u *uplink, kind string, value any) {
	data, err := json.Marshal(value)
	if err == nil {
		err = atomicfile.Write(n.file(u, kind), data, 0o644)
	}
	if err != nil {
		n.o.Log.Warn("keep what the network told", "link", u.Name, "error", err)
	}
}

func (n *Network) load(u *uplink, kind string, value any) bool {
	data, err := os.ReadFile(n.file(u, kind))
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err == nil {
		err = json.Unmarshal(data, value)
	}
	if err != nil {
		n.o.Log.Warn("read what the network told an earlier wherryd", "link", u.Name, "error", err)
	}
	return err == nil
}

func (n *Network) forget(u *uplink, kind string) {
	if err := os.Remove(n.file(u, kind)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.o.Log.Warn("forget what the network told", "link", u.Name, "error", err)
	}
}
