// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package containernet

import (
	"net/netip"
	"slices"
	"strings"

	"wherry.example/wherry/internal/machine/containernet/dns"
)

// shortID is how much of an id is a name.
const shortID = 12

// zone is what one container may know of the others: who is on its networks,
// except the default one, where names are private as in docker.
type zone struct {
	n     *Networks
	asker *attachment
}

func (n *Networks) zone(asker netip.Addr) (dns.Zone, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range n.attached {
		if slices.Contains(a.addresses(), asker) {
			return zone{n, a}, true
		}
	}
	return nil, false
}

// Addresses finds containers by name, alias, short id, or name.network.
func (z zone) Addresses(name string) (addrs []netip.Addr, known bool) {
	z.n.mu.Lock()
	defer z.n.mu.Unlock()
	z.eachLocked(func(a *attachment, e endpoint) {
		if a.named(name, e) {
			addrs, known = append(addrs, e.addresses()...), true
		}
	})
	return addrs, known
}

// Name finds who has an address.
func (z zone) Name(addr netip.Addr) (name string, ours bool) {
	z.n.mu.Lock()
	defer z.n.mu.Unlock()
	for _, w := range z.n.networks {
		ours = ours || w.subnet4.Contains(addr) || w.subnet6.Contains(addr)
	}
	z.eachLocked(func(a *attachment, e endpoint) {
		if e.IPv4 == addr || e.IPv6 == addr {
			name = a.Name + "." + e.Network
		}
	})
	return name, ours
}

// Outside is false for a container that has no way out: names of the outside
// would be one.
func (z zone) Outside() bool {
	return slices.ContainsFunc(z.asker.Endpoints, func(e endpoint) bool { return e.WayOut })
}

// eachLocked visits the places on the asker's networks.
func (z zone) eachLocked(visit func(*attachment, endpoint)) {
	for _, a := range z.n.attached {
		if a.leaving {
			continue
		}
		for _, e := range a.Endpoints {
			if e.Network != DefaultNetwork && z.asker.on(e.Network) {
				visit(a, e)
			}
		}
	}
}

// named compares a name in lower case.
func (a *attachment) named(name string, e endpoint) bool {
	own := strings.ToLower(a.Name)
	return name == own || name == a.Container[:shortID] ||
		name == own+"."+strings.ToLower(e.Network) || slices.Contains(e.Aliases, name)
}
