// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package containernet gives containers their networks: bridges, addresses,
// published ports, names, and walls between networks.
//
// It owns the links named wb0, wb-* and wv*, the nftables table `inet wherry`,
// port 53 of its bridges' addresses, its state directory (one file for each
// network, kept) and its run directory (one file for each attached container,
// gone at reboot as the containers are). It reads the machine's addresses and
// routes, to keep out of their way.
//
// Nothing is set up for a network until its first container comes: a machine
// without containers has no bridge, no rules and loads no modules for them.
// Attach writes its record first and then does what the record says; when a
// step fails, it undoes the others. After a crash of wherryd, Start reads the
// records and rebuilds the rules in one transaction while containers go on
// talking; Retain then gives back what belongs to containers that are no more.
//
// What it cannot do it says on the status board and does without: without
// nftables the machine does not forward packets, so containers reach the
// machine and their own network only; without IPv6 they have IPv4.
package containernet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/machine/containernet/dns"
	"wherry.example/wherry/internal/machine/containernet/firewall"
	"wherry.example/wherry/internal/machine/containernet/ipam"
	"wherry.example/wherry/internal/machine/containernet/link"
	"wherry.example/wherry/internal/machine/status"
)

// DefaultNetwork is the network of containers that name none.
const DefaultNetwork = "bridge"

// subsystem is our line on the board.
const subsystem = "container network"

// Options are what the machine tells its container networks.
type Options struct {
	StateDir string // outlives reboots
	RunDir   string // does not
	// Pool4 and Pool6 are where subnets come from. Zero: 172.20.0.0/14, and a
	// random ULA /48 that is made once.
	Pool4, Pool6 netip.Prefix
	// Upstreams and Search are the machine's name servers and search domains.
	// They are called for each question and each container.
	Upstreams func() []netip.AddrPort
	Search    func() []string
	// Reserved are TCP ports that are never published, and what they are for.
	Reserved map[uint16]string
	Board    *status.Board
	Log      *slog.Logger
}

// Networks are the container networks of the machine.
type Networks struct {
	opts  Options
	table firewall.Table
	names dns.Server

	// mu guards what follows; no call to the kernel is made under it except
	// to look whether a port is free.
	mu       sync.Mutex
	networks map[string]*network    // by name
	attached map[string]*attachment // by container
	ports    portTable

	// setup is held while a network is set up or taken down.
	setup    sync.Mutex
	prepared bool
	noRules  error // why there is no firewall
}

// New reads what is kept. It changes nothing on the machine.
func New(o Options) (*Networks, error) {
	if !o.Pool4.IsValid() {
		o.Pool4 = netip.MustParsePrefix("172.20.0.0/14")
	}
	if err := checkPools(o); err != nil {
		return nil, err
	}
	n := &Networks{opts: o, networks: map[string]*network{}, attached: map[string]*attachment{}}
	n.names = dns.Server{Zone: n.zone, Upstreams: o.Upstreams, Log: o.Log}
	for _, dir := range []string{n.networksDir(), n.attachedDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("prepare container networks: %w", err)
		}
	}
	if err := n.loadPool6(); err != nil {
		return nil, err
	}
	if err := n.loadNetworks(); err != nil {
		return nil, err
	}
	return n, n.loadAttachments()
}

func checkPools(o Options) error {
	if !o.Pool4.Addr().Is4() || o.Pool4.Bits() < 8 || o.Pool4.Bits() > 29 {
		return fmt.Errorf("the address pool %s of container networks is not an IPv4 subnet between /8 and /29", o.Pool4)
	}
	if o.Pool6.IsValid() && (!o.Pool6.Addr().Is6() || o.Pool6.Bits() > 96) {
		return fmt.Errorf("the address pool %s of container networks is not an IPv6 subnet of at most /96", o.Pool6)
	}
	return nil
}

func (n *Networks) networksDir() string { return filepath.Join(n.opts.StateDir, "by-name") }
func (n *Networks) attachedDir() string { return filepath.Join(n.opts.RunDir, "attached") }

// Start makes sure of the default network and takes up the networks of
// containers that run already.
func (n *Networks) Start(ctx context.Context) error {
	inUse, err := link.InUse()
	if err != nil {
		return err
	}
	if err := n.settleDefault(inUse); err != nil {
		n.opts.Board.Set(subsystem, false, err.Error())
		return err
	}
	n.report()
	var errs []error
	for _, name := range n.occupied() {
		errs = append(errs, n.setUp(name))
	}
	if err := errors.Join(errs...); err != nil {
		n.opts.Board.Set(subsystem, false, err.Error())
		return err
	}
	return nil
}

// Close stops answering questions about names. Links and rules stay for the
// containers that go on running.
func (n *Networks) Close() {
	n.setup.Lock()
	defer n.setup.Unlock()
	n.mu.Lock()
	var links []string
	for _, w := range n.networks {
		links = append(links, w.Bridge)
	}
	n.mu.Unlock()
	for _, l := range links {
		n.names.Close(l)
	}
}

// report puts what everybody should know on the board.
func (n *Networks) report() {
	switch {
	case n.noRules != nil:
		n.opts.Board.Set(subsystem, false, "nftables does not work, so containers have no way out and ports cannot be published: "+n.noRules.Error())
	case !link.HasIPv6():
		n.opts.Board.Set(subsystem, true, "IPv6 is off: containers get IPv4 only")
	default:
		n.opts.Board.Set(subsystem, true, "")
	}
}

// settleDefault makes the default network when there is none, and moves it to
// another subnet when the machine uses this one now: nobody chose it.
func (n *Networks) settleDefault(inUse []netip.Prefix) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.networks[DefaultNetwork]
	if old != nil && (n.membersLocked(DefaultNetwork) > 0 || n.fitsLocked(old, inUse)) {
		return nil
	}
	delete(n.networks, DefaultNetwork)
	made, err := n.designLocked(&wherryv1.CreateNetworkRequest{Name: DefaultNetwork}, inUse)
	if err != nil {
		return err
	}
	made.Bridge = link.DefaultBridge
	return n.keepLocked(made)
}

// fitsLocked tells whether a default network made earlier is still right.
func (n *Networks) fitsLocked(w *network, inUse []netip.Prefix) bool {
	return n.opts.Pool4.Overlaps(w.subnet4) && n.opts.Pool6.Overlaps(w.subnet6) &&
		!ipam.OverlapsAny(w.subnet4, inUse) && !ipam.OverlapsAny(w.subnet6, inUse)
}

// occupied lists the networks that have containers.
func (n *Networks) occupied() (names []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name := range n.networks {
		if n.membersLocked(name) > 0 {
			names = append(names, name)
		}
	}
	return names
}
