// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// maxHops bounds how far back X-Forwarded-For is read.
const maxHops = 8

// Proxies are the addresses of the proxies in front of a server. What such a
// proxy says of where a request came from is believed, and what others say is not:
// else whoever writes the header could count as anybody.
type Proxies []netip.Prefix

// ParseProxies reads addresses and networks.
func ParseProxies(list []string) (Proxies, error) {
	var p Proxies
	for _, s := range list {
		prefix, err := netip.ParsePrefix(s)
		if err != nil {
			addr, aerr := netip.ParseAddr(s)
			if aerr != nil || addr.Zone() != "" {
				return nil, fmt.Errorf("%q is not the address or network of a proxy, such as 127.0.0.1 or 10.0.0.0/8", s)
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		p = append(p, prefix.Masked())
	}
	return p, nil
}

func (p Proxies) has(a netip.Addr) bool {
	return slices.ContainsFunc(p, func(q netip.Prefix) bool { return q.Contains(a) })
}

// sender is where a request came from: the last address on its way that is not
// one of the proxies. The zero address: nobody knows.
func (p Proxies) sender(req *http.Request) netip.Addr {
	remote, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	at := remote.Addr().Unmap().WithZone("")
	hops := strings.Split(strings.Join(req.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= max(0, len(hops)-maxHops) && p.has(at); i-- {
		before, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		at = before.Unmap().WithZone("")
	}
	return at
}
