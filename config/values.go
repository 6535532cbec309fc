// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"time"
)

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

// Values of Updates.Mode.
const (
	UpdatesAutomatic    = "automatic"
	UpdatesDownloadOnly = "download-only"
	UpdatesManual       = "manual"
)

// DefaultTrialLimit is the Limit of a Trial that names none.
const DefaultTrialLimit = 5 * time.Minute

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

// EffectiveMode is what the machine does with a new release.
func (u Updates) EffectiveMode() string {
	if u.Mode == "" {
		return UpdatesAutomatic
	}
	return u.Mode
}

// EffectiveLimit is how long a trial may take.
func (t Trial) EffectiveLimit() time.Duration {
	if t.Limit == 0 {
		return DefaultTrialLimit
	}
	return t.Limit
}

// IsZero says that the machine may reboot at any time.
func (w Window) IsZero() bool {
	return len(w.Days) == 0 && w.Start == "" && w.Length == 0 && w.TimeZone == ""
}
