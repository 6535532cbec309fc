// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"wherry.example/wherry/api/wherryv1"
)

// etcFiles are bind-mounted below /etc of each container.
var etcFiles = []string{"hostname", "hosts", "resolv.conf"}

// etcContent writes the three files. Before the network is joined nothing is
// known of addresses and name servers; the same files are then filled in place,
// because the container's mounts hold on to the inodes.
func etcContent(s *wherryv1.ContainerSpec, net NetworkResult) map[string][]byte {
	return map[string][]byte{
		"hostname":    []byte(s.Hostname + "\n"),
		"hosts":       hostsFile(s, net),
		"resolv.conf": resolvConf(s, net),
	}
}

func hostsFile(s *wherryv1.ContainerSpec, net NetworkResult) []byte {
	var b bytes.Buffer
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	for _, h := range s.ExtraHosts {
		if name, addr, err := splitExtraHost(h); err == nil {
			fmt.Fprintf(&b, "%s\t%s\n", addr, name)
		}
	}
	names := s.Hostname
	if s.Domainname != "" {
		names = s.Hostname + "." + s.Domainname + " " + names
	}
	own := 0
	for _, e := range net.Endpoints {
		for _, cidr := range []string{e.Ipv4, e.Ipv6} {
			if p, err := netip.ParsePrefix(cidr); err == nil && names != "" {
				fmt.Fprintf(&b, "%s\t%s\n", p.Addr(), names)
				own++
			}
		}
	}
	if own == 0 && names != "" {
		fmt.Fprintf(&b, "127.0.1.1\t%s\n", names)
	}
	return b.Bytes()
}

func resolvConf(s *wherryv1.ContainerSpec, net NetworkResult) []byte {
	var b bytes.Buffer
	search := s.DnsSearch
	if len(search) == 0 {
		search = net.Search
	}
	if len(search) > 0 && search[0] != "." {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	servers := s.Dns
	if len(servers) == 0 {
		for _, a := range net.Nameservers {
			servers = append(servers, a.String())
		}
	}
	for _, a := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	return b.Bytes()
}

// writeEtc writes the files in place: the container has them mounted. For the machine's own network the
// machine's resolv.conf is copied unless the container names its servers.
func (e *Engine) writeEtc(dir string, s *wherryv1.ContainerSpec, net NetworkResult) error {
	content := etcContent(s, net)
	if s.NetworkMode == wherryv1.NetworkMode_NETWORK_MODE_HOST {
		if len(s.Dns) == 0 && e.opts.HostResolvConf != "" {
			if b, err := os.ReadFile(e.opts.HostResolvConf); err == nil {
				content["resolv.conf"] = b
			}
		}
		if s.Hostname == "" {
			content["hostname"] = []byte(e.opts.Hostname + "\n")
		}
	}
	for _, name := range etcFiles {
		if err := writeInPlace(filepath.Join(dir, name), content[name]); err != nil {
			return fmt.Errorf("write the container's %s: %w", name, err)
		}
	}
	return nil
}

// writeInPlace keeps the file and its blocks: a full disk must not keep a
// container that ran before from being started.
func writeInPlace(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(content, 0)
	if err == nil {
		err = f.Truncate(int64(len(content)))
	}
	return errors.Join(err, f.Chmod(0o644), f.Close())
}
