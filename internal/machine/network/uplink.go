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
)

// uplink is a managed link with what is known beyond the kernel.
type uplink struct {
	observed
	entry     config.Interface
	lease     *Lease
	announced announced

	stop  func() // ends the DHCP client; nil: none runs
	mac   string // that the client uses
	run   int    // number of the client, so that the words of an earlier one are not heard
	fresh bool   // the lease is in force on this link: there is no need to confirm it
}

// leaseEvent is what the DHCP client of a link says.
type leaseEvent struct {
	link, run int
	lease     *Lease // nil: lost
}

// Files in /run/wherry/network, with the link's name between.
const (
	leaseFile     = "lease-"
	announcedFile = "ra-"
)

func (u *uplink) wanted() wanted {
	return wanted{Config: u.entry, Lease: u.lease, Now: sinceBoot()}
}

func (u *uplink) listensToRouters() bool {
	return u.entry.IPv6 == "" || u.entry.IPv6 == config.IPv6Auto
}

// know takes over what was observed: new links are added, those that are gone forgotten.
func (n *Network) know(links []observed) {
	for index, u := range n.links {
		if !slices.ContainsFunc(links, func(o observed) bool { return o.Index == index }) {
			n.endLease(u)
			n.forget(u, leaseFile)
			n.forget(u, announcedFile)
			delete(n.links, index)
		}
	}
	for _, o := range links {
		u := n.links[o.Index]
		if u == nil {
			u = &uplink{observed: o}
			n.links[o.Index] = u
			n.load(u, announcedFile, &u.announced)
			n.adopt(u)
		}
		u.observed, u.entry = o, entryFor(o.Link, n.machine.Network.Interfaces)
		if !u.listensToRouters() {
			u.announced = announced{}
		}
	}
}

// leaseAll starts and ends DHCP clients as configuration and carriers demand.
func (n *Network) leaseAll(ctx context.Context) {
	for _, u := range n.links {
		if u.stop != nil && u.mac != u.MAC.String() {
			n.endLease(u)
		}
		switch {
		case !u.entry.UseDHCP():
			n.endLease(u)
			if u.lease != nil {
				u.lease = nil
				n.forget(u, leaseFile)
			}
		case !u.Carrier:
			n.endLease(u) // and keep the lease: it is confirmed when the carrier returns
			u.fresh = false
			if u.lease != nil && u.lease.left(sinceBoot()) <= 0 {
				u.lease = nil
			}
		case u.stop == nil:
			n.beginLease(ctx, u)
		}
	}
}

// adopt takes over the lease that an earlier wherryd left. Where its address
// is still on a link that runs, it is in force without asking.
func (n *Network) adopt(u *uplink) {
	var l Lease
	if n.load(u, leaseFile, &l) && l.MAC == u.MAC.String() && l.Address.IsValid() && l.left(sinceBoot()) > 0 {
		u.lease, u.fresh = &l, hasAddress(u.Addresses, l.Address.Addr())
	}
}

// beginLease starts the link's client.
func (n *Network) beginLease(ctx context.Context, u *uplink) {
	ctx, u.stop = context.WithCancel(ctx)
	u.run++
	u.mac = u.MAC.String()
	index, run := u.Index, u.run
	c := &dhcpClient{log: n.o.Log, link: u.Name, mac: u.MAC, name: n.machine.Name, now: sinceBoot, got: func(l *Lease) {
		select {
		case n.leases <- leaseEvent{index, run, l}:
		case <-ctx.Done():
		}
	}}
	lease, fresh := u.lease, u.fresh
	n.clients.Go(func() { c.run(ctx, lease, fresh) })
}

func (n *Network) endLease(u *uplink) {
	if u.stop != nil {
		u.stop()
		u.stop = nil
	}
}

// takeLease says whether the event is news.
func (n *Network) takeLease(e leaseEvent) bool {
	u := n.links[e.link]
	if u == nil || u.stop == nil || u.run != e.run {
		return false
	}
	u.lease, u.fresh = e.lease, e.lease != nil
	if e.lease == nil {
		n.forget(u, leaseFile)
	} else {
		n.save(u, leaseFile, e.lease)
	}
	return true
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
