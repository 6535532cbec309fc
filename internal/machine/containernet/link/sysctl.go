// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
)

const sysctlDir = "/proc/sys/net/"

type sysctl struct{ path, value string }

// write sets sysctls in order. Those of an absent subsystem (IPv6 off, no
// br_netfilter) are none of our business.
func write(settings ...sysctl) error {
	for _, s := range settings {
		err := os.WriteFile(sysctlDir+s.path, []byte(s.value), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("set net/%s to %s: %w", s.path, s.value, err)
		}
	}
	return nil
}

func read(path string) string {
	b, _ := os.ReadFile(sysctlDir + path)
	return strings.TrimSpace(string(b))
}

func bridgeSysctls(name string) error {
	return write(
		// Published ports answer on 127.0.0.1; the firewall's guard keeps others from using it.
		sysctl{"ipv4/conf/" + name + "/route_localnet", "1"},
		// A container must not be told a shorter way than through the firewall.
		sysctl{"ipv4/conf/" + name + "/send_redirects", "0"},
		// Containers do not tell the machine where its routers are.
		sysctl{"ipv6/conf/" + name + "/accept_ra", "0"},
		sysctl{"ipv6/conf/" + name + "/autoconf", "0"},
		sysctl{"ipv6/conf/" + name + "/accept_dad", "0"},
		sysctl{"ipv6/conf/" + name + "/addr_gen_mode", "1"}, // no link-local address but ours
	)
}

// portSysctls: a port of a bridge needs no address of its own.
func portSysctls(name string) error {
	return write(sysctl{"ipv6/conf/" + name + "/disable_ipv6", "1"})
}

// containerSysctls are for links that come into the namespace later: a
// container takes no routes from its neighbours.
func containerSysctls() error {
	return write(
		sysctl{"ipv6/conf/default/accept_ra", "0"},
		sysctl{"ipv6/conf/default/autoconf", "0"},
		sysctl{"ipv6/conf/default/accept_dad", "0"},
	)
}

// Forward makes the machine forward packets; call it only when the firewall
// is there. The machine's own links keep listening to their routers, which
// a forwarding host stops to do unless accept_ra is 2.
func Forward() error {
	var settings []sysctl
	links, err := filepath.Glob(sysctlDir + "ipv6/conf/*/accept_ra")
	if err != nil {
		return err
	}
	for _, path := range links {
		path = strings.TrimPrefix(path, sysctlDir)
		if name := strings.Split(path, "/")[2]; !Own(name) && read(path) == "1" {
			settings = append(settings, sysctl{path, "2"})
		}
	}
	return write(append(settings,
		sysctl{"ipv4/ip_forward", "1"},
		sysctl{"ipv6/conf/all/forwarding", "1"},
	)...)
}

// BridgedPacketsBypassFirewall keeps packets between containers of one network
// out of the rules for packets between networks.
func BridgedPacketsBypassFirewall() error {
	return write(
		sysctl{"bridge/bridge-nf-call-iptables", "0"},
		sysctl{"bridge/bridge-nf-call-ip6tables", "0"},
		sysctl{"bridge/bridge-nf-call-arptables", "0"},
	)
}

// HasIPv6 tells whether the kernel has IPv6 and it is not switched off.
func HasIPv6() bool {
	return read("ipv6/conf/all/disable_ipv6") == "0" && read("ipv6/conf/default/disable_ipv6") == "0"
}

// defaultMTU is Ethernet's.
const defaultMTU = 1500

// UplinkMTU is the smallest MTU of the links that default routes use.
func UplinkMTU() int {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return defaultMTU
	}
	mtu := 0
	for _, r := range routes {
		if r.Dst != nil && prefix(r.Dst).Bits() != 0 {
			continue
		}
		l, err := netlink.LinkByIndex(r.LinkIndex)
		if err == nil && (mtu == 0 || l.Attrs().MTU < mtu) {
			mtu = l.Attrs().MTU
		}
	}
	if mtu < 1280 { // IPv6 needs that much
		return defaultMTU
	}
	return mtu
}
