// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"os"
	"path/filepath"
	"strings"

	"wherry.example/wherry/internal/linux/netlink"
)

// observe reads all managed links, in the order of their indexes, and the loopback.
func observe() (links []observed, loopback netlink.Link, err error) {
	all, err := netlink.Links()
	if err != nil {
		return nil, loopback, err
	}
	addresses, err := netlink.Addresses()
	if err != nil {
		return nil, loopback, err
	}
	routes, err := netlink.Routes()
	if err != nil {
		return nil, loopback, err
	}
	routers, err := netlink.Routers()
	if err != nil {
		return nil, loopback, err
	}
	for _, l := range all {
		if l.Loopback {
			loopback = l
		}
		if !managed(l) {
			continue
		}
		o := observed{Link: l, Settings: readSettings(l.Name), Router: routers[l.Index]}
		for _, a := range addresses {
			if a.Link == l.Index {
				o.Addresses = append(o.Addresses, a)
			}
		}
		for _, r := range routes {
			if r.Link == l.Index {
				o.Routes = append(o.Routes, r)
			}
		}
		links = append(links, o)
	}
	return links, loopback, nil
}

// file returns where a link's setting is. In the kernel's paths a dot in a
// link's name stays one.
func (s setting) file(link string) string {
	return filepath.Join("/proc/sys/net", strings.ReplaceAll(string(s), "IFACE", link))
}

// readSettings leaves out what this kernel does not have, as when IPv6 is off.
func readSettings(link string) map[setting]string {
	out := map[setting]string{}
	for _, s := range settings {
		if b, err := os.ReadFile(s.file(link)); err == nil {
			out[s] = strings.TrimSpace(string(b))
		}
	}
	return out
}
