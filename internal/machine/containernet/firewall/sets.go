// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
)

// Names of the sets and maps. Those that end in 4 and 6 are a pair.
const (
	setBridges  = "bridges"  // links of all networks
	setInternal = "internal" // links of those without a way out
	setGateway4 = "gateway4" // the machine's addresses on the networks
	setGateway6 = "gateway6"
	mapAny4     = "any4" // protocol . port → container
	mapAny6     = "any6"
	mapAt4      = "at4" // address . protocol . port → container
	mapAt6      = "at6"
)

var setNames = []string{setBridges, setInternal, setGateway4, setGateway6, mapAny4, mapAny6, mapAt4, mapAt6}

func newTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: TableName}
}

func newSets(table *nftables.Table) map[string]*nftables.Set {
	proto, port := nftables.TypeInetProto, nftables.TypeInetService
	addr4, addr6 := nftables.TypeIPAddr, nftables.TypeIP6Addr
	concat := nftables.MustConcatSetType
	set := func(name string, key nftables.SetDatatype) *nftables.Set {
		return &nftables.Set{Table: table, Name: name, KeyType: key}
	}
	links := func(name string) *nftables.Set { // the byte order is for nft's eyes only
		return &nftables.Set{Table: table, Name: name, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
	}
	mapping := func(name string, key, data nftables.SetDatatype) *nftables.Set {
		return &nftables.Set{Table: table, Name: name, KeyType: key, DataType: data, IsMap: true, Concatenation: true}
	}
	return map[string]*nftables.Set{
		setBridges:  links(setBridges),
		setInternal: links(setInternal),
		setGateway4: set(setGateway4, addr4),
		setGateway6: set(setGateway6, addr6),
		mapAny4:     mapping(mapAny4, concat(proto, port), concat(addr4, port)),
		mapAny6:     mapping(mapAny6, concat(proto, port), concat(addr6, port)),
		mapAt4:      mapping(mapAt4, concat(addr4, proto, port), concat(addr4, port)),
		mapAt6:      mapping(mapAt6, concat(addr6, proto, port), concat(addr6, port)),
	}
}

// elements are what plan puts into each set.
func (p Plan) elements() map[string][]nftables.SetElement {
	out := map[string][]nftables.SetElement{}
	add := func(set string, key, value []byte) {
		out[set] = append(out[set], nftables.SetElement{Key: key, Val: value})
	}
	for _, b := range p.Bridges {
		add(setBridges, linkName(b.Link), nil)
		if b.Internal {
			add(setInternal, linkName(b.Link), nil)
		}
		for _, g := range b.Gateways {
			add(byFamily(g, setGateway4, setGateway6), g.AsSlice(), nil)
		}
	}
	for _, f := range p.Forwards {
		set, key := byFamily(f.Host.Addr(), mapAny4, mapAny6), []byte(nil)
		if !f.Host.Addr().IsUnspecified() {
			set, key = byFamily(f.Host.Addr(), mapAt4, mapAt6), f.Host.Addr().AsSlice()
		}
		key = appendPort(append(key, f.Protocol, 0, 0, 0), f.Host.Port())
		add(set, key, appendPort(f.Container.Addr().AsSlice(), f.Container.Port()))
	}
	return out
}

func byFamily(a netip.Addr, four, six string) string {
	if a.Is4() {
		return four
	}
	return six
}

// appendPort adds a port as a whole register: concatenations are made of 32-bit words.
func appendPort(b []byte, port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(b, port), 0, 0)
}

// linkName is a name as the kernel compares it: 16 bytes, padded with zeros.
func linkName(name string) []byte {
	b := make([]byte, 16)
	copy(b, name)
	return b
}
