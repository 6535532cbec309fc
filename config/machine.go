// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package config is what a machine should be: one document, parsed into one
// immutable value of type Machine.
//
// The document is YAML (JSON is YAML too). Parse reads it strictly: unknown
// fields, wrong types and values out of bounds are problems, all of them are
// reported with their path and line, and nothing is applied while one of them
// is an error. Whatever the source of a document, the rest of the system sees
// only Machine.
package config

import "time"

//go:generate go test -run TestGeneratedFiles -update .

// Version is the version of the document that this package writes and expects.
const Version = "v1"

// MaxBytes bounds a document, as fw_cfg, the API and files deliver it.
const MaxBytes = 1 << 20

// Machine is a whole configuration. The zero value is a working machine that
// nobody can log in to.
type Machine struct {
	// Version of the document: "v1".
	Version string `yaml:"version" json:"version"`
	// Name is the machine's host name; empty: from DHCP, else "wherry".
	Name string `yaml:"name,omitempty" json:"name,omitempty"`
	// Access says who may call the API.
	Access Access `yaml:"access,omitempty" json:"access,omitzero"`
	// Network is how the machine itself is reached.
	Network Network `yaml:"network,omitempty" json:"network,omitzero"`
	// Time is where the clock is set from.
	Time Time `yaml:"time,omitempty" json:"time,omitzero"`
	// Storage is what lies on the state disk.
	Storage Storage `yaml:"storage,omitempty" json:"storage,omitzero"`
	// Updates is where new releases of the OS come from, and when they are taken.
	Updates Updates `yaml:"updates,omitempty" json:"updates,omitzero"`
	// Install has a machine that was started from a live medium install itself onto a disk, once. Machines that were started otherwise ignore it.
	Install Install `yaml:"install,omitempty" json:"install,omitzero"`
	// Registries is how image registries are reached, where it differs from HTTPS with public authorities.
	Registries []Registry `yaml:"registries,omitempty" json:"registries,omitempty"`
	// Containers are settings of the engine.
	Containers Containers `yaml:"containers,omitempty" json:"containers,omitzero"`
	// SystemContainers are the machine's own containers, kept apart from the users'.
	SystemContainers []SystemContainer `yaml:"systemContainers,omitempty" json:"systemContainers,omitempty"`
	// Sysctls are kernel settings beyond the defaults, by dotted name.
	Sysctls map[string]string `yaml:"sysctls,omitempty" json:"sysctls,omitempty"`
	// Modules are kernel modules to load at boot by name.
	Modules []string `yaml:"modules,omitempty" json:"modules,omitempty"`
}

// Role is what a key may do. Each role includes the ones before it.
type Role string

const (
	RoleReader   Role = "reader"
	RoleOperator Role = "operator"
	RoleAdmin    Role = "admin"
)

// Access says who may call the API.
type Access struct {
	// Keys log in; each has a role.
	Keys []Key `yaml:"keys,omitempty" json:"keys,omitempty"`
}

// Key is an OpenSSH public key and the role it gives.
type Key struct {
	// Key is one line of authorized_keys without options: "ssh-ed25519 AAAA… comment".
	Key string `yaml:"key" json:"key"`
	// Role is reader, operator or admin, and admin when empty: a key delivered by a cloud is the owner's.
	Role Role `yaml:"role,omitempty" json:"role,omitempty"`
}

// Network is how the machine itself is reached.
type Network struct {
	// Interfaces are the links that need more than DHCP and what routers announce.
	Interfaces []Interface `yaml:"interfaces,omitempty" json:"interfaces,omitempty"`
	// Nameservers are addresses; they come before those from DHCP.
	Nameservers []string `yaml:"nameservers,omitempty" json:"nameservers,omitempty"`
	// Search are domains for names without dots.
	Search []string `yaml:"search,omitempty" json:"search,omitempty"`
}

// Interface configures the links that match. Links that no entry matches use DHCP and what routers announce.
type Interface struct {
	// Match is a link name ("eth0"), a glob of it ("enp*") or a MAC address.
	Match string `yaml:"match" json:"match"`
	// DHCP asks for an IPv4 address. It is true unless Addresses has one.
	DHCP *bool `yaml:"dhcp,omitempty" json:"dhcp,omitempty"`
	// IPv6 is "auto" (what routers announce: SLAAC or DHCPv6; default), "off" or "static".
	IPv6 string `yaml:"ipv6,omitempty" json:"ipv6,omitempty"`
	// Addresses are in CIDR form, IPv4 or IPv6.
	Addresses []string `yaml:"addresses,omitempty" json:"addresses,omitempty"`
	// Gateway is the IPv4 default route's. It may be outside of all Addresses.
	Gateway string `yaml:"gateway,omitempty" json:"gateway,omitempty"`
	// Gateway6 is the IPv6 default route's, beside those that routers announce.
	Gateway6 string `yaml:"gateway6,omitempty" json:"gateway6,omitempty"`
	// Routes are further routes through this link.
	Routes []Route `yaml:"routes,omitempty" json:"routes,omitempty"`
	// MTU is in bytes; 0: from DHCP or the router, else the link's own.
	MTU int `yaml:"mtu,omitempty" json:"mtu,omitempty"`
}

// Route is a network that is reached through a link.
type Route struct {
	// To is a network in CIDR form.
	To string `yaml:"to" json:"to"`
	// Via is the gateway; empty: the network is on the link.
	Via string `yaml:"via,omitempty" json:"via,omitempty"`
	// Metric orders routes to the same network, the lowest first.
	Metric int `yaml:"metric,omitempty" json:"metric,omitempty"`
}

// Time is where the clock is set from.
type Time struct {
	// Servers are SNTP servers; empty: those from DHCP, else the pool of Debian.
	Servers []string `yaml:"servers,omitempty" json:"servers,omitempty"`
}

// Storage is what lies on the state disk.
type Storage struct {
	// OSImage is where the OS is read from while it runs: "memory", "disk" (a copy on the state disk, of which every
	// block is checked when it is read) or "auto" (default): on the disk where the machine has less than 1 GiB of memory.
	OSImage string `yaml:"osImage,omitempty" json:"osImage,omitempty"`
}

// Install says which disk a machine that was started from a live medium installs itself onto. The installed machine has the rest of this document.
type Install struct {
	// Disk is a name ("vda", "/dev/nvme0n1") or "serial:" and a serial number; or "first", "smallest" or "largest" of the disks that are empty.
	Disk string `yaml:"disk" json:"disk"`
	// Wipe allows that everything on the disk is lost, which must then be named by name or serial number. A disk that was installed by this very
	// document is not installed again.
	Wipe bool `yaml:"wipe,omitempty" json:"wipe,omitempty"`
	// Reboot starts the installed machine when it is done.
	Reboot bool `yaml:"reboot,omitempty" json:"reboot,omitempty"`
}

// Updates is where new releases of the OS come from, and when they are taken.
type Updates struct {
	// URL is the release repository's, http or https; what it holds is signed, so that http is safe. Empty: the machine looks nowhere, and takes
	// what is given to it by hand.
	URL string `yaml:"url,omitempty" json:"url,omitempty"`
	// CA are PEM certificates trusted for the repository beside the public ones.
	CA string `yaml:"ca,omitempty" json:"ca,omitempty"`
	// Channel is alpha, beta or stable (default): how settled the releases are.
	Channel string `yaml:"channel,omitempty" json:"channel,omitempty"`
	// Pin is the one version that the machine may go to, instead of a channel's newest: "12.1.0". It never goes to an older one by itself.
	Pin string `yaml:"pin,omitempty" json:"pin,omitempty"`
	// Mode is "automatic" (default: download, then reboot into it within the window), "download-only" (until somebody says apply) or
	// "manual" (only tell that there is one).
	Mode string `yaml:"mode,omitempty" json:"mode,omitempty"`
	// Window is when the machine may reboot into a new release by itself; empty: any time.
	Window Window `yaml:"window,omitempty" json:"window,omitzero"`
	// Spread delays this machine by a random time of up to so much, so that not all of them reboot at once; at most 7 days (168h).
	Spread time.Duration `yaml:"spread,omitempty" json:"spread,omitempty"`
	// Report tells the repository's server under an anonymous id which release runs here, and how updates end.
	Report bool `yaml:"report,omitempty" json:"report,omitempty"`
	// Trial is what must be true before a new release is kept.
	Trial Trial `yaml:"trial,omitempty" json:"trial,omitzero"`
}

// Window is a time that comes back every week.
type Window struct {
	// Days are those on which the window begins: mon, tue, wed, thu, fri, sat, sun; empty: every day.
	Days []string `yaml:"days,omitempty" json:"days,omitempty"`
	// Start is the time of day, "02:00".
	Start string `yaml:"start,omitempty" json:"start,omitempty"`
	// Length is how long it lasts, from 10 minutes to 24 hours; it may cross midnight.
	Length time.Duration `yaml:"length,omitempty" json:"length,omitempty"`
	// TimeZone is a name such as Europe/Berlin; empty: UTC.
	TimeZone string `yaml:"timeZone,omitempty" json:"timeZone,omitempty"`
}

// Trial is what must be true before a new release is kept: beside these checks, the network is as it was, and each container that ran runs again.
type Trial struct {
	// Limit is how long that may take before the machine goes back, from 30 seconds to 30 minutes; zero: 5 minutes.
	Limit time.Duration `yaml:"limit,omitempty" json:"limit,omitempty"`
	// Checks are at most 16. Each is tried again until it passes, or the limit is over.
	Checks []TrialCheck `yaml:"checks,omitempty" json:"checks,omitempty"`
}

// TrialCheck is one question about the work that this machine does: exactly one of http, tcp and exec.
type TrialCheck struct {
	// Name is what reports call it by.
	Name string `yaml:"name" json:"name"`
	// HTTP asks for a page.
	HTTP TrialHTTP `yaml:"http,omitempty" json:"http,omitzero"`
	// TCP is a host:port that must accept a connection.
	TCP string `yaml:"tcp,omitempty" json:"tcp,omitempty"`
	// Exec runs a command in a container.
	Exec TrialExec `yaml:"exec,omitempty" json:"exec,omitzero"`
}

// TrialHTTP asks for a page. Redirects are not followed.
type TrialHTTP struct {
	// URL is the page's, http or https; the certificate is not checked, because the question is whether it works.
	URL string `yaml:"url" json:"url"`
	// Status is the wanted answer; zero: any from 200 to 299.
	Status int `yaml:"status,omitempty" json:"status,omitempty"`
}

// TrialExec runs a command that must end with 0.
type TrialExec struct {
	// Container is the name of a container.
	Container string `yaml:"container" json:"container"`
	// Command is the program with its arguments; there is no shell.
	Command []string `yaml:"command" json:"command"`
}

// Registry is how one registry is reached.
type Registry struct {
	// Host is the host[:port] in image names; "*" is every other registry.
	Host string `yaml:"host" json:"host"`
	// PlainHTTP allows HTTP without TLS. No other registry is ever asked without TLS.
	PlainHTTP bool `yaml:"plainHTTP,omitempty" json:"plainHTTP,omitempty"`
	// CA are PEM certificates trusted for this registry beside the public ones.
	CA string `yaml:"ca,omitempty" json:"ca,omitempty"`
	// Mirrors are host[:port][/prefix] asked in order before the registry itself.
	// How each is reached is its own entry's matter.
	Mirrors []string `yaml:"mirrors,omitempty" json:"mirrors,omitempty"`
	// Username and Password are sent to this registry alone.
	Username string `yaml:"username,omitempty" json:"username,omitempty"`
	// Password is never shown: where it would be stands "(hidden)", which means the same when applied again.
	Password string `yaml:"password,omitempty" json:"password,omitempty" wherry:"secret"`
}

// Containers are settings of the engine.
type Containers struct {
	// AllowedHostPaths are the only host paths that containers may bind, read-only.
	AllowedHostPaths []string `yaml:"allowedHostPaths,omitempty" json:"allowedHostPaths,omitempty"`
	// AddressPool4 is where container networks take their subnets from, in /24 steps; empty: 172.20.0.0/14.
	AddressPool4 string `yaml:"addressPool4,omitempty" json:"addressPool4,omitempty"`
	// AddressPool6 is the same for IPv6, in /64 steps; empty: a random ULA /48.
	AddressPool6 string `yaml:"addressPool6,omitempty" json:"addressPool6,omitempty"`
	// StopTimeout is the grace period at shutdown for containers that name none; zero: 10 s.
	StopTimeout time.Duration `yaml:"stopTimeout,omitempty" json:"stopTimeout,omitempty"`
}

// SystemContainer is one of the machine's own containers. It is restarted always.
type SystemContainer struct {
	// Name is unique among the system containers.
	Name string `yaml:"name" json:"name"`
	// Image is pulled when it is missing.
	Image string `yaml:"image" json:"image"`
	// Entrypoint replaces the image's.
	Entrypoint []string `yaml:"entrypoint,omitempty" json:"entrypoint,omitempty"`
	// Command replaces the image's.
	Command []string `yaml:"command,omitempty" json:"command,omitempty"`
	// Env are NAME=value, added to the image's.
	Env []string `yaml:"env,omitempty" json:"env,omitempty"`
	// HostNetwork joins the machine's own network.
	HostNetwork bool `yaml:"hostNetwork,omitempty" json:"hostNetwork,omitempty"`
}
