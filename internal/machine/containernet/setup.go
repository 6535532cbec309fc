// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package containernet

import (
	"fmt"
	"net/netip"

	"wherry.example/wherry/internal/machine/containernet/firewall"
	"wherry.example/wherry/internal/machine/containernet/ipam"
	"wherry.example/wherry/internal/machine/containernet/link"
)

// setUp makes a network real, once. Rules come before the bridge, so that no
// packet passes unseen.
func (n *Networks) setUp(name string) error {
	n.setup.Lock()
	defer n.setup.Unlock()
	n.mu.Lock()
	w := n.networks[name]
	real := w != nil && w.real
	n.mu.Unlock()
	if w == nil {
		return notFound(name)
	}
	if real {
		return nil
	}
	n.warnOverlap(w)
	n.prepare()
	if n.noRules == nil {
		if err := n.table.Add(firewall.Plan{Bridges: []firewall.Bridge{w.bridge()}}); err != nil {
			return err
		}
	}
	if err := w.link().Ensure(); err != nil {
		return err
	}
	if err := n.names.Listen(w.Bridge, w.bridge().Gateways); err != nil {
		// Containers can live without our names, not without a network.
		n.opts.Log.Error("containers of a network find no names", "network", name, "error", err)
	}
	n.setReal(w, true)
	return nil
}

func (n *Networks) setReal(w *network, real bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	w.real = real
}

// prepare is done when the first network becomes real: the machine starts to
// forward packets, with the rules in place before.
func (n *Networks) prepare() {
	if n.prepared {
		return
	}
	n.prepared = true
	err := link.BridgedPacketsBypassFirewall()
	if err == nil {
		err = n.table.Rebuild(n.wholePlan())
	}
	if err == nil {
		err = link.Forward()
	}
	if n.noRules = err; err != nil {
		n.opts.Log.Error("container networks have no way out", "error", err)
	}
	n.report()
}

// wholePlan is everything that the firewall should know now.
func (n *Networks) wholePlan() (plan firewall.Plan) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, w := range n.networks {
		if w.real || n.membersLocked(name) > 0 {
			plan.Bridges = append(plan.Bridges, w.bridge())
		}
	}
	for _, a := range n.attached {
		if a.ruled && !a.leaving {
			plan.Forwards = append(plan.Forwards, a.forwards()...)
		}
	}
	return plan
}

// takeDown undoes setUp.
func (n *Networks) takeDown(w *network) error {
	n.setup.Lock()
	defer n.setup.Unlock()
	if !w.real {
		return nil
	}
	n.setReal(w, false)
	n.names.Close(w.Bridge)
	if err := link.Remove(w.Bridge); err != nil {
		return err
	}
	return n.changeRules(n.table.Remove, firewall.Plan{Bridges: []firewall.Bridge{w.bridge()}})
}

// changeRules changes the firewall, and writes it anew from what we know when
// the change does not fit what is there: somebody else was at it.
func (n *Networks) changeRules(change func(firewall.Plan) error, plan firewall.Plan) error {
	err := change(plan)
	if err == nil {
		return nil
	}
	n.opts.Log.Warn("the firewall of container networks is written anew", "error", err)
	return n.table.Rebuild(n.wholePlan())
}

// warnOverlap says when the machine came to use a network's addresses after
// the network was made. Which of the two is meant cannot be known here.
func (n *Networks) warnOverlap(w *network) {
	inUse, err := link.InUse()
	if err != nil {
		return
	}
	for _, s := range []netip.Prefix{w.subnet4, w.subnet6} {
		if other, found := ipam.Overlapping(s, inUse); found {
			n.opts.Log.Warn("a container network has addresses that the machine uses too",
				"network", w.Name, "subnet", s, "machine", other)
		}
	}
}

// bridge is the network as the firewall sees it.
func (w *network) bridge() firewall.Bridge {
	b := firewall.Bridge{Link: w.Bridge, Internal: w.Internal, Gateways: []netip.Addr{w.gateway4}}
	if link.HasIPv6() {
		b.Gateways = append(b.Gateways, w.gateway6)
	}
	return b
}

// link is the network's bridge as it should be.
func (w *network) link() link.Bridge {
	b := link.Bridge{Name: w.Bridge, MTU: link.UplinkMTU()}
	b.Addresses = append(b.Addresses, netip.PrefixFrom(w.gateway4, w.subnet4.Bits()))
	if link.HasIPv6() {
		b.Addresses = append(b.Addresses, netip.PrefixFrom(w.gateway6, w.subnet6.Bits()))
	}
	return b
}

func portsNeedRules(err error) error {
	return fmt.Errorf("publish ports: this machine's kernel has no working nftables: %w", err)
}
