// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package containernet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/machine/containernet/firewall"
	"wherry.example/wherry/internal/machine/containernet/link"
	"wherry.example/wherry/internal/netattach"
)

// Bounds of what a container asks.
const (
	maxNetworksOfOne = 16
	maxAliases       = 64
	maxAliasBytes    = 253
)

// Check refuses what Attach could never do. It is called when the container is
// made; ports and addresses that are taken now may be free when it starts.
func (n *Networks) Check(r netattach.Request) error {
	if r.Mode != wherryv1.NetworkMode_NETWORK_MODE_BRIDGE {
		if len(r.Networks) > 0 {
			return invalid("a container without networks of its own cannot join any")
		}
		return nil
	}
	ports, err := parsePorts(r.Ports)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	wayOut, err := n.checkNetworksLocked(r)
	if err != nil {
		return err
	}
	if len(ports) > 0 && !wayOut {
		return invalid("ports cannot be published: all networks of the container are internal")
	}
	return n.checkReserved(ports)
}

func (n *Networks) checkNetworksLocked(r netattach.Request) (wayOut bool, err error) {
	asked := networksOf(r)
	if len(asked) > maxNetworksOfOne {
		return false, invalid("a container joins at most %d networks", maxNetworksOfOne)
	}
	seen := map[string]bool{}
	for _, ask := range asked {
		w, err := n.findLocked(ask.Network)
		if err != nil {
			return false, err
		}
		if seen[w.Name] {
			return false, invalid("network %s is listed twice", w.Name)
		}
		seen[w.Name] = true
		wayOut = wayOut || !w.Internal
		if err := w.checkAsk(ask); err != nil {
			return false, err
		}
	}
	return wayOut, nil
}

func (w *network) checkAsk(ask *wherryv1.NetworkAttachment) error {
	if len(ask.Aliases) > maxAliases {
		return invalid("too many aliases on network %s: at most %d", w.Name, maxAliases)
	}
	for _, alias := range ask.Aliases {
		if alias == "" || len(alias) > maxAliasBytes {
			return invalid("an alias on network %s has %d bytes; 1 to %d are possible", w.Name, len(alias), maxAliasBytes)
		}
	}
	if err := w.checkAddress(ask.Ipv4, netip.Addr.Is4); err != nil {
		return err
	}
	return w.checkAddress(ask.Ipv6, netip.Addr.Is6)
}

func (w *network) checkAddress(text string, family func(netip.Addr) bool) error {
	if text == "" {
		return nil
	}
	a, err := w.parseAddress(text)
	if err == nil && !family(a) {
		err = invalid("%s is an address of the other family than the one asked for", a)
	}
	return err
}

func (n *Networks) checkReserved(ports []published) error {
	for _, p := range ports {
		for i := range p.Count {
			if use, found := n.opts.Reserved[p.Host+uint16(i)]; found && p.protocol() == "tcp" && p.Host != 0 {
				return conflict("port %d/tcp belongs to the machine: %s", p.Host+uint16(i), use)
			}
		}
	}
	return nil
}

// networksOf are the networks asked for, or the default one.
func networksOf(r netattach.Request) []*wherryv1.NetworkAttachment {
	if len(r.Networks) > 0 {
		return r.Networks
	}
	return []*wherryv1.NetworkAttachment{{Network: DefaultNetwork}}
}

// Attach gives a container its links, addresses, ports and names: all or nothing.
func (n *Networks) Attach(ctx context.Context, r netattach.Request) (netattach.Result, error) {
	if err := n.Check(r); err != nil {
		return netattach.Result{}, err
	}
	switch r.Mode {
	case wherryv1.NetworkMode_NETWORK_MODE_HOST:
		return netattach.Result{}, nil
	case wherryv1.NetworkMode_NETWORK_MODE_NONE:
		return netattach.Result{}, link.Connect(r.NetNS, nil)
	}
	if !isID(r.Container) {
		return netattach.Result{}, invalid("%.80q is not a container's id", r.Container)
	}
	if err := n.Detach(ctx, r.Container); err != nil { // of an earlier run
		return netattach.Result{}, err
	}
	a, err := n.reserve(r)
	if err != nil {
		return netattach.Result{}, err
	}
	if err := n.connect(a, r.NetNS); err != nil {
		return netattach.Result{}, errors.Join(fmt.Errorf("attach container %s to its networks: %w", a.Name, err), n.giveBack(a))
	}
	return n.result(a), nil
}

// isID tells whether s can be part of names of links and files.
func isID(s string) bool {
	if len(s) < 13 || len(s) > 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// reserve decides everything about an attachment and writes it down.
func (n *Networks) reserve(r netattach.Request) (*attachment, error) {
	six := link.HasIPv6()
	ports, err := parsePorts(r.Ports)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	a := &attachment{Container: r.Container, Name: r.Name}
	wayOut := false
	for i, ask := range networksOf(r) {
		w, err := n.findLocked(ask.Network)
		if err != nil {
			return nil, err
		}
		e, err := w.placeLocked(ask, six, n.takenByLocked)
		if err != nil {
			return nil, err
		}
		e.Link = link.VethName(r.Container, i)
		e.WayOut = !w.Internal && !wayOut
		wayOut = wayOut || e.WayOut
		a.Endpoints = append(a.Endpoints, e)
	}
	if err := n.claimLocked(a, ports, six); err != nil {
		return nil, err
	}
	n.attached[a.Container] = a
	if err := n.save(a); err != nil {
		return nil, errors.Join(err, n.dropLocked(a))
	}
	return a, nil
}

// claimLocked takes the ports, or none of them.
func (n *Networks) claimLocked(a *attachment, ports []published, six bool) error {
	for _, p := range ports {
		if !six {
			p.Hosts = slices.DeleteFunc(p.Hosts, netip.Addr.Is6)
		}
		err := n.ports.claim(&p, a.Name, n.free)
		if len(p.Hosts) == 0 {
			err = conflict("port %d cannot be published on an IPv6 address: IPv6 is off", p.Host)
		}
		if err != nil {
			for _, claimed := range a.Ports {
				n.ports.release(claimed)
			}
			return err
		}
		a.Ports = append(a.Ports, p)
	}
	return nil
}

// free is the probe for ports: the machine's own first, by name.
func (n *Networks) free(protocol uint8, at netip.AddrPort) error {
	if use, found := n.opts.Reserved[at.Port()]; found && (published{Protocol: protocol}).protocol() == "tcp" {
		return fmt.Errorf("it belongs to the machine: %s", use)
	}
	return listening(protocol, at)
}

// takenByLocked names the container that has an address.
func (n *Networks) takenByLocked(addr netip.Addr) string {
	for _, a := range n.attached {
		if slices.Contains(a.addresses(), addr) {
			return "container " + a.Name
		}
	}
	return ""
}

// connect does what the record says. Rules for ports come last, when there is
// somebody to answer.
func (n *Networks) connect(a *attachment, netNS string) error {
	mtu := link.UplinkMTU()
	var veths []link.Veth
	for i, e := range a.Endpoints {
		if err := n.setUp(e.Network); err != nil {
			return err
		}
		w, err := n.network(e.Network)
		if err != nil {
			return err
		}
		veths = append(veths, e.veth(w, i, mtu))
	}
	forwards := a.forwards()
	if err := n.rules(); err != nil && len(forwards) > 0 {
		return portsNeedRules(err)
	}
	if err := link.Connect(netNS, veths); err != nil {
		return err
	}
	if len(forwards) == 0 {
		return nil
	}
	n.setRuled(a, true)
	if err := n.changeRules(n.table.Add, firewall.Plan{Forwards: forwards}); err != nil {
		return err
	}
	n.warn("forget packets that came before a port was published", firewall.ForgetBefore(forwards))
	return nil
}

func (n *Networks) network(name string) (*network, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.findLocked(name)
}

// rules says why there is no firewall, or nil.
func (n *Networks) rules() error {
	n.setup.Lock()
	defer n.setup.Unlock()
	if !n.prepared {
		return errors.New("no network is set up")
	}
	return n.noRules
}

func (n *Networks) warn(what string, err error) {
	if err != nil {
		n.opts.Log.Warn("container network: could not "+what, "error", err)
	}
}

func (n *Networks) result(a *attachment) (r netattach.Result) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range a.Endpoints {
		w := n.networks[e.Network]
		r.Endpoints = append(r.Endpoints, e.view(w))
		if len(r.Nameservers) == 0 {
			// One is enough, also with several networks: who asks is known by the address.
			r.Nameservers = []netip.Addr{w.gateway4}
		}
	}
	for _, p := range a.Ports {
		r.Ports = append(r.Ports, p.mapping())
	}
	if n.opts.Search != nil {
		r.Search = n.opts.Search()
	}
	return r
}

// Detach gives back all that a container has. Nobody of that id is fine.
func (n *Networks) Detach(ctx context.Context, container string) error {
	n.mu.Lock()
	a := n.attached[container]
	n.mu.Unlock()
	if a == nil {
		return nil
	}
	if err := n.giveBack(a); err != nil {
		return fmt.Errorf("detach container %s from its networks: %w", a.Name, err)
	}
	return nil
}

func (n *Networks) setRuled(a *attachment, ruled bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a.ruled = ruled
}

// giveBack undoes connect and reserve, also when they were not completed. When
// something cannot be removed the record stays, and with it the addresses.
func (n *Networks) giveBack(a *attachment) error {
	forwards := a.forwards()
	n.mu.Lock()
	ruled := a.ruled && len(forwards) > 0
	a.leaving = true
	n.mu.Unlock()
	var errs []error
	if ruled && n.rules() == nil {
		err := n.changeRules(n.table.Remove, firewall.Plan{Forwards: forwards})
		n.setRuled(a, err != nil)
		errs = append(errs, err)
	}
	for _, e := range a.Endpoints {
		errs = append(errs, link.Remove(e.Link))
	}
	if ruled {
		n.warn("forget a container's connections", firewall.ForgetContainer(a.addresses()))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dropLocked(a)
}

// Retain gives back what containers have that are not listed, and removes
// links that no record explains.
func (n *Networks) Retain(ctx context.Context, containers []string) error {
	n.mu.Lock()
	var gone []string
	known := map[string]bool{}
	for id, a := range n.attached {
		if !slices.Contains(containers, id) {
			gone = append(gone, id)
		}
		for _, e := range a.Endpoints {
			known[e.Link] = true
		}
	}
	n.mu.Unlock()
	var errs []error
	for _, id := range gone {
		errs = append(errs, n.Detach(ctx, id))
	}
	veths, err := link.Veths()
	errs = append(errs, err)
	for _, name := range veths {
		if !known[name] {
			errs = append(errs, link.Remove(name))
		}
	}
	return errors.Join(errs...)
}
