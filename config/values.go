// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package config

import "net/netip"

// Values of Interface.IPv6.
const (
	IPv6Auto   = "auto"
	IPv6Off    = "off"
	IPv6Static = "static"
)

// Values of Storage.OSImage.
const (
	OSImageAuto   = "auto"
	OSImageMemory = "memory"
	OSImageDisk   = "disk"
)

// AnyRegistry is the host of the entry that holds for every registry without its own.
const AnyRegistry = "*"

// UseDHCP says whether DHCPv4 is asked: as the document says, else when there
// is no static IPv4 address.
func (f Interface) UseDHCP() bool {
	if f.DHCP != nil {
		return *f.DHCP
	}
	for _, a := range f.Addresses {
		if p, err := netip.ParsePrefix(a); err == nil && p.Addr().Is4() {
			return false
		}
	}
	return true
}
