// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// InUse lists the subnets that the machine has addresses in or routes to,
// except those of our own bridges and default routes.
func InUse() ([]netip.Prefix, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	own := map[int]bool{}
	for _, l := range links {
		own[l.Attrs().Index] = Own(l.Attrs().Name)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var out []netip.Prefix
	add := func(linkIndex int, p netip.Prefix) {
		if p.IsValid() && p.Bits() > 0 && !own[linkIndex] && !p.Addr().IsLinkLocalUnicast() && !p.Addr().IsMulticast() {
			out = append(out, p.Masked())
		}
	}
	for _, a := range addrs {
		add(a.LinkIndex, prefix(a.IPNet))
	}
	for _, r := range routes {
		add(r.LinkIndex, prefix(r.Dst))
	}
	return out, nil
}
