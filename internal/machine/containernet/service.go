// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package containernet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/machine/containernet/link"
)

// Bounds of what a request may bring.
const (
	maxNetworks   = 512
	maxLabels     = 128
	maxLabelBytes = 16 << 10
)

// reservedNames cannot be made or removed.
var reservedNames = []string{DefaultNetwork, "default", "host", "none"}

// CreateNetwork makes a network. Its bridge comes with its first container.
func (n *Networks) CreateNetwork(ctx context.Context, req *wherryv1.CreateNetworkRequest) (*wherryv1.Network, error) {
	if err := checkCreate(req); err != nil {
		return nil, err
	}
	inUse, err := link.InUse()
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.networks[req.Name] != nil {
		return nil, errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("there is a network %s already", req.Name))
	}
	if len(n.networks) >= maxNetworks {
		return nil, exhausted("there are %d networks already; remove some", len(n.networks))
	}
	w, err := n.designLocked(proto.CloneOf(req), inUse)
	if err != nil {
		return nil, err
	}
	if err := n.keepLocked(w); err != nil {
		return nil, err
	}
	return n.viewLocked(w), nil
}

func checkCreate(req *wherryv1.CreateNetworkRequest) error {
	if !validName(req.Name) {
		return invalid("%.140q is no name for a network: letters, digits, and after the first also _ . -, at most 128 in all", req.Name)
	}
	if slices.Contains(reservedNames, req.Name) {
		return invalid("%s is the name of a built-in network", req.Name)
	}
	size := 0
	for k, v := range req.Labels {
		size += len(k) + len(v)
	}
	if len(req.Labels) > maxLabels || size > maxLabelBytes {
		return invalid("too many labels: at most %d of %d bytes in all", maxLabels, maxLabelBytes)
	}
	return nil
}

// ListNetworks lists all networks by name.
func (n *Networks) ListNetworks(ctx context.Context) ([]*wherryv1.Network, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]*wherryv1.Network, 0, len(n.networks))
	for _, w := range n.networks {
		out = append(out, n.viewLocked(w))
	}
	slices.SortFunc(out, func(a, b *wherryv1.Network) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// InspectNetwork finds a network by name, id, or unique beginning of the id.
func (n *Networks) InspectNetwork(ctx context.Context, ref string) (*wherryv1.Network, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	w, err := n.findLocked(ref)
	if err != nil {
		return nil, err
	}
	return n.viewLocked(w), nil
}

// RemoveNetwork removes a network that no container is on.
func (n *Networks) RemoveNetwork(ctx context.Context, ref string) error {
	n.mu.Lock()
	w, err := n.findLocked(ref)
	if err == nil {
		err = n.forgetLocked(w)
	}
	n.mu.Unlock()
	if err != nil {
		return err
	}
	return n.takeDown(w)
}

// forgetLocked makes the network unknown, so that nobody joins it any more.
func (n *Networks) forgetLocked(w *network) error {
	if slices.Contains(reservedNames, w.Name) {
		return conflict("the network %s is built in and stays", w.Name)
	}
	if names := n.memberNamesLocked(w.Name); len(names) > 0 {
		return conflict("network %s is in use by %s; stop or remove them first", w.Name, listed(names))
	}
	if err := os.Remove(n.networkFile(w.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove network %s: %w", w.Name, err)
	}
	delete(n.networks, w.Name)
	return nil
}

// PruneNetworks removes all networks that no container is on.
func (n *Networks) PruneNetworks(ctx context.Context) (removed []string, err error) {
	n.mu.Lock()
	var unused []string
	for name := range n.networks {
		if n.membersLocked(name) == 0 && !slices.Contains(reservedNames, name) {
			unused = append(unused, name)
		}
	}
	n.mu.Unlock()
	slices.Sort(unused)
	var errs []error
	for _, name := range unused {
		err := n.RemoveNetwork(ctx, name)
		if errdefs.IsFailedPrecondition(err) || errdefs.IsNotFound(err) {
			continue // taken into use, or removed, meanwhile
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, name)
	}
	return removed, errors.Join(errs...)
}

func (n *Networks) findLocked(ref string) (*network, error) {
	if ref == "default" {
		ref = DefaultNetwork
	}
	if w := n.networks[ref]; w != nil {
		return w, nil
	}
	var found *network
	for _, w := range n.networks {
		if ref != "" && strings.HasPrefix(w.Id, ref) {
			if found != nil {
				return nil, invalid("several networks' ids begin with %q", ref)
			}
			found = w
		}
	}
	if found == nil {
		return nil, notFound(ref)
	}
	return found, nil
}

// viewLocked is a network as callers see it: their own copy, with its members.
func (n *Networks) viewLocked(w *network) *wherryv1.Network {
	v := proto.CloneOf(w.Network)
	for _, a := range n.attached {
		for _, e := range a.Endpoints {
			if e.Network != w.Name {
				continue
			}
			m := &wherryv1.NetworkMember{Container: a.Container, Name: a.Name, Ipv4: e.IPv4.String()}
			if e.IPv6.IsValid() {
				m.Ipv6 = e.IPv6.String()
			}
			v.Members = append(v.Members, m)
		}
	}
	slices.SortFunc(v.Members, func(a, b *wherryv1.NetworkMember) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Container, b.Container))
	})
	return v
}

func (n *Networks) membersLocked(name string) int { return len(n.memberNamesLocked(name)) }

func (n *Networks) memberNamesLocked(name string) (names []string) {
	for _, a := range n.attached {
		if a.on(name) {
			names = append(names, a.Name)
		}
	}
	slices.Sort(names)
	return names
}

// listed names a few.
func listed(names []string) string {
	if len(names) > 3 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
	}
	return strings.Join(names, ", ")
}

func notFound(ref string) error {
	return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("there is no network %.140q", ref))
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

func conflict(format string, args ...any) error {
	return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(format, args...))
}

func exhausted(format string, args ...any) error {
	return errdefs.ErrResourceExhausted.WithMessage(fmt.Sprintf(format, args...))
}
