// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package containernet

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/atomicfile"
	"wherry.example/wherry/internal/machine/containernet/ipam"
	"wherry.example/wherry/internal/machine/containernet/link"
)

// network is a network as it is kept, and its addresses as values.
type network struct {
	*wherryv1.Network
	subnet4, subnet6   netip.Prefix
	gateway4, gateway6 netip.Addr

	// Guarded by Networks.mu.
	last uint32 // number of the address given last
	real bool   // the bridge is there
}

// parseNetwork reads the addresses of a record, which may come from an older
// release or a damaged disk.
func parseNetwork(r *wherryv1.Network) (*network, error) {
	w := &network{Network: r}
	var errs [4]error
	w.subnet4, errs[0] = netip.ParsePrefix(r.Subnet4)
	w.subnet6, errs[1] = netip.ParsePrefix(r.Subnet6)
	w.gateway4, errs[2] = netip.ParseAddr(r.Gateway4)
	w.gateway6, errs[3] = netip.ParseAddr(r.Gateway6)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	if !validName(r.Name) || len(r.Id) != 64 || (r.Bridge != link.DefaultBridge && r.Bridge != link.BridgeName(r.Id)) {
		return nil, errors.New("its name, id and bridge do not belong together")
	}
	return w, checkSubnets(w)
}

// designLocked decides what a new network is to be.
func (n *Networks) designLocked(req *wherryv1.CreateNetworkRequest, inUse []netip.Prefix) (*network, error) {
	taken := inUse
	for _, other := range n.networks {
		taken = append(taken, other.subnet4, other.subnet6)
	}
	subnet4, err := chooseSubnet(req.Subnet4, n.opts.Pool4, ipam.Bits4, taken)
	if err != nil {
		return nil, err
	}
	subnet6, err := chooseSubnet(req.Subnet6, n.opts.Pool6, ipam.Bits6, taken)
	if err != nil {
		return nil, err
	}
	id := randomID()
	w := &network{
		Network: &wherryv1.Network{
			Name: req.Name, Id: id, Bridge: link.BridgeName(id), Internal: req.Internal,
			Labels: req.Labels, CreatedAt: timestamppb.Now(),
		},
		subnet4: subnet4, subnet6: subnet6,
		gateway4: ipam.Host(subnet4, 1), gateway6: ipam.Host(subnet6, 1),
	}
	if req.Gateway4 != "" {
		if w.gateway4, err = netip.ParseAddr(req.Gateway4); err != nil {
			return nil, invalid("the gateway %q is not an address", req.Gateway4)
		}
	}
	w.Subnet4, w.Subnet6 = subnet4.String(), subnet6.String()
	w.Gateway4, w.Gateway6 = w.gateway4.String(), w.gateway6.String()
	return w, checkSubnets(w)
}

// chooseSubnet takes the one asked for, or the next free one of the pool.
func chooseSubnet(asked string, pool netip.Prefix, bits int, taken []netip.Prefix) (netip.Prefix, error) {
	if asked == "" {
		p, err := ipam.NextSubnet(pool, bits, taken)
		if err != nil {
			return p, exhausted("%v; remove networks, or set containers.addressPool4 and addressPool6 in the machine's configuration", err)
		}
		return p, nil
	}
	p, err := netip.ParsePrefix(asked)
	if err != nil {
		return p, invalid("the subnet %q is not of the form 10.1.0.0/24", asked)
	}
	if other, found := ipam.Overlapping(p, taken); found {
		return p, conflict("the subnet %s overlaps %s, which another network or the machine itself uses", p, other)
	}
	return p, nil
}

// checkSubnets refuses what containers could not work in.
func checkSubnets(w *network) error {
	four, six := w.subnet4, w.subnet6
	switch {
	case four != four.Masked() || six != six.Masked():
		return invalid("a subnet begins with its own address: %s, %s", four.Masked(), six.Masked())
	case !four.Addr().Is4() || four.Bits() < 8 || four.Bits() > 29:
		return invalid("the subnet %s is not an IPv4 one between /8 and /29", four)
	case !six.Addr().Is6() || six.Addr().Is4In6() || six.Bits() < 16 || six.Bits() > 96:
		return invalid("the subnet %s is not an IPv6 one between /16 and /96", six)
	case !unicast(four) || !unicast(six):
		return invalid("the subnets %s and %s are not for hosts", four, six)
	case !ipam.Usable(four, w.gateway4) || !ipam.Usable(six, w.gateway6):
		return invalid("the gateways %s and %s are not host addresses of %s and %s", w.gateway4, w.gateway6, four, six)
	}
	return nil
}

func unicast(p netip.Prefix) bool {
	for _, special := range []string{"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/16", "fe80::/10", "ff00::/8"} {
		if p.Overlaps(netip.MustParsePrefix(special)) {
			return false
		}
	}
	return true
}

// validName is docker's rule.
func validName(s string) bool {
	if len(s) == 0 || len(s) > 128 {
		return false
	}
	for i, c := range []byte(s) {
		word := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !word && (i == 0 || !strings.ContainsRune("_.-", rune(c))) {
			return false
		}
	}
	return true
}

func randomID() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func (n *Networks) networkFile(name string) string {
	return filepath.Join(n.networksDir(), name+".json")
}

// keepLocked writes the network down and makes it known.
func (n *Networks) keepLocked(w *network) error {
	b, err := protojson.Marshal(w.Network)
	if err == nil {
		err = atomicfile.Write(n.networkFile(w.Name), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep network %s: %w", w.Name, err)
	}
	n.networks[w.Name] = w
	return nil
}

// loadNetworks overlooks a record that cannot be read: one damaged file must
// not take the other networks away. Creating a network of that name replaces it.
func (n *Networks) loadNetworks() error {
	files, err := os.ReadDir(n.networksDir())
	if err != nil {
		return fmt.Errorf("read networks: %w", err)
	}
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), ".json")
		if !ok || atomicfile.IsTemp(f.Name()) {
			continue
		}
		w, err := readNetwork(n.networkFile(name))
		if err == nil && w.Name != name {
			err = fmt.Errorf("it holds network %s", w.Name)
		}
		if err != nil {
			n.opts.Log.Error("a network's record cannot be read", "file", f.Name(), "error", err)
			continue
		}
		n.networks[name] = w
	}
	return nil
}

func readNetwork(path string) (*network, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := &wherryv1.Network{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, r); err != nil {
		return nil, err
	}
	return parseNetwork(r)
}

// loadPool6 makes the machine's own ULA prefix once.
func (n *Networks) loadPool6() error {
	if n.opts.Pool6.IsValid() {
		return nil
	}
	file := filepath.Join(n.opts.StateDir, "ula")
	b, err := os.ReadFile(file)
	if err == nil {
		if n.opts.Pool6, err = netip.ParsePrefix(strings.TrimSpace(string(b))); err == nil {
			return nil
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		n.opts.Log.Error("the IPv6 prefix of container networks cannot be read; it is made anew", "error", err)
	}
	n.opts.Pool6 = ipam.RandomULA()
	if err := atomicfile.Write(file, []byte(n.opts.Pool6.String()+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep the IPv6 prefix of container networks: %w", err)
	}
	return nil
}
