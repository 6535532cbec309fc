// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package network gives the machine its own addresses, routes, name servers
// and host name. Container networks are not its matter.
//
// It owns every Ethernet device of the machine (see managed), with the
// addresses on it that no router announced and the routes that are marked as
// static or from DHCP; resolv.conf and network/ in /run/wherry; and the host
// name. It reads the configuration, DHCP servers' leases and what routers
// announce, DHCPv6 among it; addresses by SLAAC are the kernel's.
//
// One goroutine (Run) does it all: something changed → observe → plan → apply,
// until there is nothing to do. Besides it there is a goroutine that waits for
// the kernel's events and one for each link with DHCP. Nothing polls.
//
// Nobody waits for the network. A step that the kernel refuses is logged and
// tried again; a link without an answer is asked again; the board says what is
// missing. When wherryd ends, everything stays as it is: the next one finds the
// leases in /run/wherry/network, and what is set already is not set again.
package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/linux/netlink"
	"wherry.example/wherry/internal/machine/status"
)

// Options are what the network needs of the machine.
type Options struct {
	Log   *slog.Logger
	Board *status.Board
	// RunDir is /run/wherry.
	RunDir string
	// SetHostName is sethostname(2) when nil.
	SetHostName func(string) error
}

// Network is the machine's own network.
type Network struct {
	o Options

	mu       sync.Mutex
	state    State
	watchers map[chan State]struct{}

	// What follows belongs to Run.
	machine  config.Machine
	links    map[int]*uplink
	leases   chan leaseEvent
	clients  sync.WaitGroup
	hostName string
	refused  string // what the last round could not do
	pause    time.Duration
}

// New returns a network that does nothing before Run.
func New(o Options) *Network {
	if o.SetHostName == nil {
		o.SetHostName = func(name string) error { return unix.Sethostname([]byte(name)) }
	}
	return &Network{
		o: o, watchers: map[chan State]struct{}{}, links: map[int]*uplink{}, leases: make(chan leaseEvent),
		state: State{HostName: DefaultHostName},
	}
}

// Run follows the configurations that machines delivers until ctx ends. It
// leaves links, addresses and routes as they are then. An error means that the
// kernel cannot be watched; calling Run again is the remedy.
func (n *Network) Run(ctx context.Context, machines <-chan config.Machine) error {
	if err := os.MkdirAll(filepath.Join(n.o.RunDir, "network"), 0o755); err != nil {
		return fmt.Errorf("start the network: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer n.stop(cancel)
	select {
	case n.machine = <-machines:
	case <-ctx.Done():
		return nil
	}
	// Watched before anything is read, so that no change falls between.
	watch, err := netlink.NewWatch()
	if err != nil {
		return err
	}
	defer watch.Close()
	events, lost := make(chan []netlink.Event, 16), make(chan error, 1)
	go func() { lost <- receive(ctx, watch, events) }()
	return n.loop(ctx, machines, events, lost)
}

// stop ends the DHCP clients and forgets them; their leases are in files.
func (n *Network) stop(cancel func()) {
	cancel()
	n.clients.Wait()
	n.links = map[int]*uplink{}
}

func receive(ctx context.Context, watch *netlink.Watch, events chan<- []netlink.Event) error {
	for {
		list, err := watch.Next()
		if err != nil {
			return err
		}
		for i := range list {
			list[i].Router = bytes.Clone(list[i].Router) // Next uses its buffer again
		}
		select {
		case events <- list:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *Network) loop(ctx context.Context, machines <-chan config.Machine, events <-chan []netlink.Event, lost <-chan error) error {
	wake := time.NewTimer(0)
	defer wake.Stop()
	for {
		changed := true
		select {
		case <-ctx.Done():
			return nil
		case err := <-lost:
			if ctx.Err() != nil {
				return nil
			}
			return err
		case n.machine = <-machines:
		case e := <-n.leases:
			changed = n.takeLease(e)
		case list := <-events:
			changed = n.takeEvents(list, events)
		case <-wake.C:
		}
		if changed {
			wake.Reset(n.round(ctx))
		}
	}
}

// takeEvents says whether one of these, or of those that wait already, is about a link of ours.
func (n *Network) takeEvents(list []netlink.Event, more <-chan []netlink.Event) bool {
	changed := false
	for {
		for _, e := range list {
			changed = n.takeEvent(e) || changed
		}
		select {
		case list = <-more:
		default:
			return changed
		}
	}
}

func (n *Network) takeEvent(e netlink.Event) bool {
	switch {
	case e.Changed != nil:
		return managed(*e.Changed) || e.Changed.Loopback || n.links[e.Changed.Index] != nil
	case e.Removed != 0:
		return n.links[e.Removed] != nil
	case e.Address != 0:
		n.takeDuplicate(e)
		return n.links[e.Address] != nil
	case e.Announced != 0:
		u := n.links[e.Announced]
		if u == nil {
			return false
		}
		u.announced.merge(e.Router, sinceBoot())
		n.save(u, announcedFile, u.announced)
		return true
	}
	return true
}

const (
	// maxPasses is how often one round looks again: removing an address can take routes with it.
	maxPasses    = 4
	firstPause   = 5 * time.Second
	longestPause = 5 * time.Minute
	// never is when nothing but an event can change anything.
	never = 24 * time.Hour
)

// round makes the kernel follow, tells everybody, and returns when to look again.
func (n *Network) round(ctx context.Context) time.Duration {
	failure := n.converge(ctx)
	now, next := sinceBoot(), time.Duration(0)
	for _, u := range n.links {
		next = sooner(next, u.announced.expire(now))
	}
	n.tell()
	wait := never
	if next > 0 {
		wait = min(wait, next-now+time.Second)
	}
	return min(wait, n.retry(failure))
}

// retry logs a failure when it is a new one, and returns when to try again.
func (n *Network) retry(failure error) time.Duration {
	if failure == nil {
		n.refused, n.pause = "", 0
		return never
	}
	if n.refused != failure.Error() {
		n.refused, n.pause = failure.Error(), firstPause
		n.o.Log.Warn("the network is not as it should be", "error", failure)
	}
	n.pause = min(2*n.pause, longestPause)
	return n.pause
}

// converge observes, plans and applies until nothing is to do.
func (n *Network) converge(ctx context.Context) error {
	var failed []error
	for range maxPasses {
		links, loopback, err := observe()
		if err != nil {
			return err
		}
		n.know(links)
		n.leaseAll(ctx)
		failed = nil
		done := 0
		if !loopback.Up && loopback.Index > 0 {
			failed = append(failed, netlink.SetUp(loopback.Index))
		}
		for _, o := range links {
			for _, s := range plan(o, n.links[o.Index].wanted()) {
				if err := apply(s); err != nil {
					failed = append(failed, err)
					continue
				}
				n.o.Log.Info("network", "step", s.String())
				done++
			}
		}
		if done == 0 {
			break
		}
	}
	return errors.Join(failed...)
}
