// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/host/known"
)

// maxForwards bounds how many ports of a range are led to a virtual machine.
const maxForwards = 128

// publish leads ports of this computer to those that a container has on a
// virtual machine of this computer. Other machines have addresses of their own.
func publish(ctx context.Context, m known.Machine, ports []*wherryv1.PortMapping) error {
	vm := vmOf(m)
	if vm == nil {
		return nil
	}
	for _, p := range ports {
		address, ok := hostAddress(p)
		if !ok {
			continue
		}
		count := max(p.Count, 1)
		if count > maxForwards {
			return fmt.Errorf("a range of %d ports is not led to a virtual machine: at most %d", count, maxForwards)
		}
		for i := range count {
			port := uint16(p.HostPort + i)
			if _, err := vm.Forward(ctx, p.Protocol, address, port, port); err != nil {
				return err
			}
		}
	}
	return nil
}

// unpublish takes back what publish did.
func unpublish(ctx context.Context, m known.Machine, ports []*wherryv1.PortMapping) error {
	vm := vmOf(m)
	if vm == nil {
		return nil
	}
	for _, p := range ports {
		address, ok := hostAddress(p)
		if !ok {
			continue
		}
		for i := range min(max(p.Count, 1), maxForwards) {
			if err := vm.Unforward(ctx, p.Protocol, address, uint16(p.HostPort+i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// hostAddress is where this computer listens for a port of a virtual machine:
// its loopback address, or all of them where the user said 0.0.0.0. An address
// at which only the machine itself, or only IPv6, gets to the port is led to by none.
func hostAddress(p *wherryv1.PortMapping) (address string, ok bool) {
	const loopback = "127.0.0.1"
	if p.HostAddress == "" {
		return loopback, true
	}
	a, err := netip.ParseAddr(p.HostAddress)
	switch {
	case err != nil || a.IsLoopback() || !a.Is4():
		return "", false
	case a.IsUnspecified():
		return a.String(), true
	}
	return loopback, true
}

// place tells where a published port is reached from this computer.
func place(m known.Machine, p *wherryv1.PortMapping) string {
	address, ok := p.HostAddress, true
	if vmOf(m) != nil {
		address, ok = hostAddress(p)
	} else if a, err := netip.ParseAddr(address); err == nil && a.IsLoopback() {
		ok = false
	}
	if !ok {
		return endpoint(p.HostAddress, p) + " on the machine alone"
	}
	if a, err := netip.ParseAddr(address); address == "" || err == nil && a.IsUnspecified() {
		host, _, err := net.SplitHostPort(m.Address)
		address = cmp.Or(host, address)
		if err != nil {
			address = m.Address
		}
	}
	return endpoint(address, p)
}

func endpoint(address string, p *wherryv1.PortMapping) string {
	at := net.JoinHostPort(address, strconv.Itoa(int(p.HostPort)))
	if p.Count > 1 {
		at += "-" + strconv.Itoa(int(p.HostPort+p.Count-1))
	}
	return at
}
