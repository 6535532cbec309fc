// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Remove removes a link; it is not an error when there is none.
func Remove(name string) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(l)
	}
	var gone netlink.LinkNotFoundError
	if err == nil || errors.As(err, &gone) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return fmt.Errorf("remove link %s: %w", name, err)
}
