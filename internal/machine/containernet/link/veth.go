// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Veth is a container's link to a bridge.
type Veth struct {
	Name      string // the machine's end
	Bridge    string
	Peer      string // name inside: eth0, eth1 …
	MTU       int
	Addresses []netip.Prefix
	Gateways  []netip.Addr // default routes go there; none: no default route
}

// Connect makes all of a container's links, or none. netNS is the path of its
// network namespace, in which loopback is up afterwards, also without links.
func Connect(netNS string, veths []Veth) error {
	ns, err := os.Open(netNS)
	if err != nil {
		return fmt.Errorf("open the container's network namespace: %w", err)
	}
	defer ns.Close()
	h, err := enter(ns)
	if err != nil {
		return fmt.Errorf("enter the container's network namespace: %w", err)
	}
	defer h.Close()
	if err := up(h, "lo"); err != nil {
		return err
	}
	for i, v := range veths {
		if err := v.connect(h, ns); err != nil {
			err = fmt.Errorf("connect %s to bridge %s: %w", v.Peer, v.Bridge, err)
			for _, made := range veths[:i] {
				err = errors.Join(err, Remove(made.Name))
			}
			return err
		}
	}
	return nil
}

// enter prepares the namespace and returns a handle whose socket stays in it.
//
// A goroutine of its own changes the namespace of its thread. When the way
// back fails the thread is not given back: it ends with the goroutine.
func enter(ns *os.File) (h *netlink.Handle, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		var own *os.File
		if own, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			runtime.UnlockOSThread()
			return
		}
		defer own.Close()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			return
		}
		if err = containerSysctls(); err == nil {
			h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		}
		if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	<-done
	return h, err
}

func (v Veth) connect(h *netlink.Handle, ns *os.File) error {
	bridge, err := netlink.LinkByName(v.Bridge)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = v.Name, v.MTU, bridge.Attrs().Index
	pair := &netlink.Veth{
		LinkAttrs: attrs, PeerName: v.Peer, PeerMTU: uint32(v.MTU),
		PeerHardwareAddr: MAC(v.Addresses[0].Addr()), PeerNamespace: netlink.NsFd(int(ns.Fd())),
	}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("create link %s: %w", v.Name, err)
	}
	if err := v.configure(h, pair); err != nil {
		return errors.Join(err, Remove(v.Name))
	}
	return nil
}

// configure sets up both ends, the container's last.
func (v Veth) configure(h *netlink.Handle, pair *netlink.Veth) error {
	if err := portSysctls(v.Name); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(pair); err != nil {
		return fmt.Errorf("set link %s up: %w", v.Name, err)
	}
	peer, err := h.LinkByName(v.Peer)
	if err != nil {
		return err
	}
	// Up first: only then does an IPv6 address bring its multicast route along,
	// without which neighbours are not heard until the kernel gets round to
	// noticing that the link is there, up to a second later.
	if err := h.LinkSetUp(peer); err != nil {
		return fmt.Errorf("set link %s up: %w", v.Peer, err)
	}
	for _, p := range v.Addresses {
		if err := h.AddrAdd(peer, address(p)); err != nil {
			return fmt.Errorf("add address %s: %w", p, err)
		}
	}
	for _, gw := range v.Gateways {
		if err := h.RouteAdd(&netlink.Route{LinkIndex: peer.Attrs().Index, Gw: gw.AsSlice()}); err != nil {
			return fmt.Errorf("add the default route by %s: %w", gw, err)
		}
	}
	return v.settle(h)
}

// settle makes packets pass before the container's first instruction. The
// kernel notices by and by that a link has come up, and until then the bridge
// drops what the link brings; but it makes up its mind at once about a link
// that it is asked about.
func (v Veth) settle(h *netlink.Handle) error {
	_, errHere := netlink.LinkByName(v.Name)
	_, errBridge := netlink.LinkByName(v.Bridge)
	_, errPeer := h.LinkByName(v.Peer)
	return errors.Join(errHere, errBridge, errPeer)
}

func up(h *netlink.Handle, name string) error {
	l, err := h.LinkByName(name)
	if err == nil {
		err = h.LinkSetUp(l)
	}
	if err != nil {
		return fmt.Errorf("set link %s up: %w", name, err)
	}
	return nil
}
