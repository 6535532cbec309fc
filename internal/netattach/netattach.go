// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package netattach is what the engine and the container networks say to each
// other when a container joins them. Neither imports the other; both know
// these two values, and nothing else is here.
package netattach

import (
	"net/netip"

	"wherry.example/wherry/api/wherryv1"
)

// Request is what a container asks of the network.
type Request struct {
	Container string // id
	Name      string // container's name, in DNS beside the aliases
	Hostname  string
	NetNS     string // path of the network namespace, for example /proc/123/ns/net; empty in Check
	Mode      wherryv1.NetworkMode
	Networks  []*wherryv1.NetworkAttachment // empty: the default network
	Ports     []*wherryv1.PortMapping
}

// Result is what it got.
type Result struct {
	Endpoints   []*wherryv1.Endpoint
	Ports       []*wherryv1.PortMapping // host ports filled in
	Nameservers []netip.Addr            // for the container's resolv.conf
	Search      []string
}
