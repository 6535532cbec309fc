// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"encoding/binary"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rule is a list of matches and what to do when all of them hold.
type rule = []expr.Any

type chain struct {
	*nftables.Chain
	rules []rule
}

// ipsDstNAT is the bit of conntrack's status that says: this connection's
// destination was changed. Only our own maps do that to packets for containers.
const ipsDstNAT = 1 << 5

const (
	ctInvalid     = 1
	ctEstablished = 2
	ctRelated     = 4
)

// chains are the rules. They name sets, never a link, an address or a port.
func chains(table *nftables.Table, sets map[string]*nftables.Set) []chain {
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
		return &nftables.Chain{Table: table, Name: name, Type: kind, Hooknum: hook, Priority: prio}
	}
	forward := base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	drop := nftables.ChainPolicyDrop
	forward.Policy = &drop
	toPublished := []rule{join(toOwnAddress(), verdict(expr.VerdictJump, "published"))}
	return []chain{
		{base("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw), guardRules()},
		{&nftables.Chain{Table: table, Name: "published"}, publishedRules(sets)},
		{base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest), toPublished},
		{base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest), toPublished},
		{base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource), postroutingRules(sets)},
		{&nftables.Chain{Table: table, Name: "refuse"}, refuseRules()},
		{forward, forwardRules(sets)},
	}
}

// guardRules keep 127.0.0.0/8 to the machine itself. Bridges route it
// (route_localnet, so that published ports answer on 127.0.0.1), and a
// destination is translated before the kernel would find it odd. The kernel
// drops ::1 from outside by itself.
func guardRules() []rule {
	notLoopback := match(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, expr.CmpOpNeq, linkName("lo"))
	return []rule{
		join(notLoopback, isIPv4(), inLoopbackNet(offsetSource4), verdict(expr.VerdictDrop, "")),
		join(notLoopback, isIPv4(), inLoopbackNet(offsetDestination4), verdict(expr.VerdictDrop, "")),
	}
}

// publishedRules lead packets for one of the machine's addresses to containers.
// Port 53 of a gateway stays ours, or publishing a name server on all
// addresses would take away the one that the containers use.
func publishedRules(sets map[string]*nftables.Set) []rule {
	port53 := join(
		rule{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}},
		rule{&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0, 53}}},
	)
	return []rule{
		join(isIPv4(), destination4(1), rule{lookup(sets[setGateway4], 1, false)}, port53, verdict(expr.VerdictReturn, "")),
		join(isIPv6(), destination6(1), rule{lookup(sets[setGateway6], 1, false)}, port53, verdict(expr.VerdictReturn, "")),
		join(isIPv4(), destination4(word(0)), protocolAndPort(1), translate(sets[mapAt4], unix.NFPROTO_IPV4)),
		join(isIPv4(), protocolAndPort(0), translate(sets[mapAny4], unix.NFPROTO_IPV4)),
		join(isIPv6(), destination6(word(0)), protocolAndPort(4), translate(sets[mapAt6], unix.NFPROTO_IPV6)),
		join(isIPv6(), protocolAndPort(0), translate(sets[mapAny6], unix.NFPROTO_IPV6)),
	}
}

// postroutingRules change the source of what would otherwise not find its way back.
func postroutingRules(sets map[string]*nftables.Set) []rule {
	in, out := link(expr.MetaKeyIIFNAME), link(expr.MetaKeyOIFNAME)
	bridges := sets[setBridges]
	return []rule{
		// From the machine's loopback address to a published port.
		join(translated(), isIPv4(), inLoopbackNet(offsetSource4), out(bridges, false), masquerade()),
		join(translated(), isIPv6(), sourceIsLoopback6(), out(bridges, false), masquerade()),
		// From a container to a published port of a container, itself perhaps:
		// the answer would go straight to the asker, who asked somebody else.
		join(translated(), in(bridges, false), out(bridges, false), masquerade()),
		// From a container to the outside.
		join(in(bridges, false), out(bridges, true), masquerade()),
	}
}

// forwardRules say what passes. What a container may not reach is refused, so
// that it learns it at once; the policy drops the rest, which comes from
// outside and for addresses of containers, or would use us as a router.
func forwardRules(sets map[string]*nftables.Set) []rule {
	in, out := link(expr.MetaKeyIIFNAME), link(expr.MetaKeyOIFNAME)
	bridges, internal := sets[setBridges], sets[setInternal]
	refuse := verdict(expr.VerdictJump, "refuse")
	return []rule{
		// Conntrack does not translate what it finds invalid: it would leave with a container's address.
		join(connection(ctInvalid), verdict(expr.VerdictDrop, "")),
		join(connection(ctEstablished|ctRelated), verdict(expr.VerdictAccept, "")),
		join(in(internal, false), refuse),
		join(in(bridges, false), out(internal, false), refuse),
		join(out(internal, false), verdict(expr.VerdictDrop, "")),
		join(out(bridges, false), translated(), verdict(expr.VerdictAccept, "")),
		join(in(bridges, false), out(bridges, true), verdict(expr.VerdictAccept, "")),
		join(in(bridges, false), refuse),
	}
}

// refuseRules answer instead of the destination: TCP is reset, since that
// answer is not subject to the kernel's limit of ICMP messages; all else is
// told that it is prohibited.
func refuseRules() []rule {
	return []rule{
		join(match(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, expr.CmpOpEq, []byte{unix.IPPROTO_TCP}),
			rule{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}),
		{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}},
	}
}

func join(parts ...rule) rule { return slices.Concat(parts...) }

// word is a 32-bit register: a concatenation is built in consecutive ones.
func word(n uint32) uint32 { return unix.NFT_REG32_00 + n }

func match(load expr.Any, op expr.CmpOp, data []byte) rule {
	return rule{load, &expr.Cmp{Op: op, Register: 1, Data: data}}
}

func isIPv4() rule { return family(unix.NFPROTO_IPV4) }
func isIPv6() rule { return family(unix.NFPROTO_IPV6) }

func family(f byte) rule {
	return match(&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, expr.CmpOpEq, []byte{f})
}

// Offsets into the network header.
const (
	offsetSource4      = 12
	offsetDestination4 = 16
	offsetSource6      = 8
	offsetDestination6 = 24
)

func header(offset, length, register uint32) *expr.Payload {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

func destination4(register uint32) rule { return rule{header(offsetDestination4, 4, register)} }
func destination6(register uint32) rule { return rule{header(offsetDestination6, 16, register)} }

func inLoopbackNet(offset uint32) rule {
	return match(header(offset, 1, 1), expr.CmpOpEq, []byte{127})
}

func sourceIsLoopback6() rule {
	loopback := make([]byte, 16)
	loopback[15] = 1
	return match(header(offsetSource6, 16, 1), expr.CmpOpEq, loopback)
}

func toOwnAddress() rule {
	local := binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)
	return match(&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true}, expr.CmpOpEq, local)
}

// protocolAndPort loads both into the words from first on.
func protocolAndPort(first uint32) rule {
	return rule{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: word(first)},
		&expr.Payload{DestRegister: word(first + 1), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// translate sends the packet where the map says, and is no match when it says nothing.
func translate(m *nftables.Set, family uint32) rule {
	port := word(1) // behind a 4-byte address
	if family == unix.NFPROTO_IPV6 {
		port = word(4)
	}
	return rule{
		lookup(m, word(0), true),
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: word(0), RegProtoMin: port, Specified: true},
	}
}

func lookup(s *nftables.Set, register uint32, load bool) *expr.Lookup {
	return &expr.Lookup{SourceRegister: register, DestRegister: register, IsDestRegSet: load, SetName: s.Name, SetID: s.ID}
}

// link makes matches on the link that a packet came in by or leaves by.
func link(key expr.MetaKey) func(set *nftables.Set, invert bool) rule {
	return func(set *nftables.Set, invert bool) rule {
		l := lookup(set, 1, false)
		l.Invert = invert
		return rule{&expr.Meta{Key: key, Register: 1}, l}
	}
}

func translated() rule { return ctBits(expr.CtKeySTATUS, ipsDstNAT) }

func connection(states uint32) rule { return ctBits(expr.CtKeySTATE, states) }

func ctBits(key expr.CtKey, bits uint32) rule {
	return rule{
		&expr.Ct{Key: key, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binary.NativeEndian.AppendUint32(nil, bits), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func masquerade() rule { return rule{&expr.Masq{}} }

func verdict(kind expr.VerdictKind, target string) rule {
	return rule{&expr.Verdict{Kind: kind, Chain: target}}
}
