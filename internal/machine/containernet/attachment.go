// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package containernet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/atomicfile"
	"wherry.example/wherry/internal/machine/containernet/firewall"
	"wherry.example/wherry/internal/machine/containernet/ipam"
	"wherry.example/wherry/internal/machine/containernet/link"
)

// attachment is a container's place on its networks, as it is kept while the
// container runs. What is written down is decided at once and never changes.
type attachment struct {
	Container string
	Name      string
	Endpoints []endpoint
	Ports     []published

	// Guarded by Networks.mu.
	ruled   bool // its ports are in the firewall
	leaving bool // on its way out
}

// endpoint is a container's place on one network.
type endpoint struct {
	Network string
	Link    string // the machine's end
	IPv4    netip.Addr
	IPv6    netip.Addr // not valid without IPv6
	Aliases []string   // in lower case
	// WayOut: the container's default routes and published ports go by this one.
	WayOut bool
}

func (a *attachment) on(network string) bool {
	for _, e := range a.Endpoints {
		if e.Network == network {
			return true
		}
	}
	return false
}

// forwards are the attachment's published ports as the firewall knows them.
func (a *attachment) forwards() (out []firewall.Forward) {
	for _, e := range a.Endpoints {
		if !e.WayOut {
			continue
		}
		for _, p := range a.Ports {
			out = append(out, p.forwards(e.IPv4, e.IPv6)...)
		}
	}
	return out
}

func (a *attachment) addresses() (out []netip.Addr) {
	for _, e := range a.Endpoints {
		out = append(out, e.addresses()...)
	}
	return out
}

func (e endpoint) addresses() []netip.Addr {
	if e.IPv6.IsValid() {
		return []netip.Addr{e.IPv4, e.IPv6}
	}
	return []netip.Addr{e.IPv4}
}

// veth is the endpoint's link as it should be.
func (e endpoint) veth(w *network, n, mtu int) link.Veth {
	v := link.Veth{Name: e.Link, Bridge: w.Bridge, Peer: fmt.Sprintf("eth%d", n), MTU: mtu}
	v.Addresses = append(v.Addresses, netip.PrefixFrom(e.IPv4, w.subnet4.Bits()))
	if e.IPv6.IsValid() {
		v.Addresses = append(v.Addresses, netip.PrefixFrom(e.IPv6, w.subnet6.Bits()))
	}
	if e.WayOut {
		v.Gateways = append(v.Gateways, w.gateway4)
		if e.IPv6.IsValid() {
			v.Gateways = append(v.Gateways, w.gateway6)
		}
	}
	return v
}

// view is the endpoint for the API.
func (e endpoint) view(w *network) *wherryv1.Endpoint {
	v := &wherryv1.Endpoint{
		Network: e.Network, Ipv4: netip.PrefixFrom(e.IPv4, w.subnet4.Bits()).String(),
		Gateway4: w.Gateway4, Mac: link.MAC(e.IPv4).String(), Aliases: e.Aliases,
	}
	if e.IPv6.IsValid() {
		v.Ipv6, v.Gateway6 = netip.PrefixFrom(e.IPv6, w.subnet6.Bits()).String(), w.Gateway6
	}
	return v
}

// placeLocked finds addresses on a network. taken tells whose an address is.
func (w *network) placeLocked(ask *wherryv1.NetworkAttachment, six bool, taken func(netip.Addr) string) (e endpoint, err error) {
	e.Network = w.Name
	for _, alias := range ask.Aliases {
		e.Aliases = append(e.Aliases, strings.ToLower(alias))
	}
	if e.IPv4, err = w.asked(ask.Ipv4, taken); err != nil {
		return e, err
	}
	if e.IPv6, err = w.asked(ask.Ipv6, taken); err != nil {
		return e, err
	}
	free := func(i uint32) bool {
		four, sixth := ipam.Host(w.subnet4, i), ipam.Host(w.subnet6, i)
		return taken(four) == "" && four != w.gateway4 && (e.IPv6.IsValid() || taken(sixth) == "" && sixth != w.gateway6)
	}
	if !e.IPv4.IsValid() {
		if w.last, err = ipam.Next(w.subnet4, w.last, free); err != nil {
			return e, exhausted("network %s is full: %v", w.Name, err)
		}
		e.IPv4 = ipam.Host(w.subnet4, w.last)
	}
	if !six {
		e.IPv6 = netip.Addr{}
	} else if !e.IPv6.IsValid() { // the same number as in IPv4, so that people see what belongs together
		if e.IPv6 = ipam.Host(w.subnet6, ipam.Number(w.subnet4, e.IPv4)); taken(e.IPv6) != "" || e.IPv6 == w.gateway6 {
			return e, conflict("address %s, which goes with %s, is taken; ask for another", e.IPv6, e.IPv4)
		}
	}
	return e, nil
}

// asked reads an address that the container wants to have.
func (w *network) asked(text string, taken func(netip.Addr) string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	a, err := w.parseAddress(text)
	if err != nil {
		return a, err
	}
	if by := taken(a); by != "" {
		return a, conflict("address %s on network %s is in use by %s", a, w.Name, by)
	}
	return a, nil
}

func (w *network) parseAddress(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return a, invalid("%.60q is not an address", text)
	}
	subnet := w.subnet4
	if a.Is6() {
		subnet = w.subnet6
	}
	if !ipam.Usable(subnet, a) || a == w.gateway4 || a == w.gateway6 {
		return a, invalid("%s is not an address for a container on network %s (%s)", a, w.Name, subnet)
	}
	return a, nil
}

func (n *Networks) attachmentFile(container string) string {
	return filepath.Join(n.attachedDir(), container+".json")
}

// save writes down what a crash of wherryd must not make us forget.
func (n *Networks) save(a *attachment) error {
	b, err := json.Marshal(a)
	if err == nil {
		err = atomicfile.Write(n.attachmentFile(a.Container), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep the network record of container %s: %w", a.Name, err)
	}
	return nil
}

// loadAttachments takes up what was there when wherryd ended. A record that
// cannot be read is deleted: Retain removes the links that no record explains.
func (n *Networks) loadAttachments() error {
	files, err := os.ReadDir(n.attachedDir())
	if err != nil {
		return fmt.Errorf("read network records of containers: %w", err)
	}
	for _, f := range files {
		path := filepath.Join(n.attachedDir(), f.Name())
		if strings.HasPrefix(f.Name(), atomicfile.TempPrefix) {
			os.Remove(path) // a record that was not to be
			continue
		}
		a := &attachment{}
		b, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(b, a)
		}
		if err == nil && n.attachmentFile(a.Container) != path {
			err = errors.New("it is not that container's")
		}
		if err == nil {
			err = a.check()
		}
		if err != nil {
			n.opts.Log.Error("a container's network record cannot be read", "file", f.Name(), "error", err)
			os.Remove(path)
			continue
		}
		n.adoptLocked(a)
	}
	return nil
}

// check refuses a record that nobody here wrote.
func (a *attachment) check() error {
	if len(a.Container) < shortID {
		return fmt.Errorf("%q is not a container's id", a.Container)
	}
	for _, e := range a.Endpoints {
		if !e.IPv4.Is4() || e.IPv6.IsValid() && !e.IPv6.Is6() {
			return fmt.Errorf("the addresses %v and %v on network %s", e.IPv4, e.IPv6, e.Network)
		}
	}
	return nil
}

// adoptLocked makes an attachment known.
func (n *Networks) adoptLocked(a *attachment) {
	a.ruled = true // Start writes the firewall from what we know
	n.attached[a.Container] = a
	for _, p := range a.Ports {
		n.ports.take(p, a.Name)
	}
	for _, e := range a.Endpoints {
		if w := n.networks[e.Network]; w != nil {
			w.last = max(w.last, ipam.Number(w.subnet4, e.IPv4))
		}
	}
}

// dropLocked makes it unknown again.
func (n *Networks) dropLocked(a *attachment) error {
	if n.attached[a.Container] != a {
		return nil // by another call already
	}
	delete(n.attached, a.Container)
	for _, p := range a.Ports {
		n.ports.release(p)
	}
	if err := os.Remove(n.attachmentFile(a.Container)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the network record of container %s: %w", a.Name, err)
	}
	return nil
}
