// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"os"

	"wherry.example/wherry/internal/linux/netlink"
)

// apply does one step. Doing it twice is doing it once.
func apply(s step) error {
	var err error
	switch {
	case s.Setting != "":
		err = os.WriteFile(s.Setting.file(s.Link), []byte(s.Value), 0o644)
	case s.MTU != 0:
		err = netlink.SetMTU(s.Index, s.MTU)
	case s.Up:
		err = netlink.SetUp(s.Index)
	case s.Add != nil:
		err = netlink.SetAddress(*s.Add)
	case s.Remove != nil:
		err = netlink.RemoveAddress(*s.Remove)
	case s.Route != nil:
		err = netlink.SetRoute(*s.Route)
	case s.Unroute != nil:
		err = netlink.RemoveRoute(*s.Unroute)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s, err)
	}
	return nil
}
