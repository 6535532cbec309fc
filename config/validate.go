// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"

	"wherry.example/wherry/internal/sshkey"
)

// check collects the problems of one place in a document.
type check struct {
	add  func(Problem)
	path string
}

func (c check) at(field string) check { return check{c.add, join(c.path, field)} }

func (c check) index(i int) check { return check{c.add, fmt.Sprintf("%s[%d]", c.path, i)} }

func (c check) errorf(format string, args ...any) {
	c.add(Problem{Path: c.path, Message: fmt.Sprintf(format, args...)})
}

func (c check) warnf(format string, args ...any) {
	c.add(Problem{Path: c.path, Message: fmt.Sprintf(format, args...), Warning: true})
}

// validate checks everything that the types do not say.
func validate(m *Machine, add func(Problem)) {
	c := check{add: add}
	if m.Version != "" && m.Version != Version {
		c.at("version").errorf("version %s is not known: this release reads %q", shorten(m.Version), Version)
	}
	if m.Name != "" {
		validateHostName(c.at("name"), m.Name)
	}
	validateKeys(c.at("access").at("keys"), m.Access.Keys)
	validateNetwork(c.at("network"), m.Network)
	validateTime(c.at("time").at("servers"), m.Time.Servers)
	validateStorage(c.at("storage"), m.Storage)
	validateUpdates(c.at("updates"), m.Updates)
	validateInstall(c.at("install"), m.Install)
	validateRegistries(c.at("registries"), m.Registries)
	validateContainers(c.at("containers"), m.Containers)
	validateSystemContainers(c.at("systemContainers"), m.SystemContainers)
	validateSysctls(c.at("sysctls"), m.Sysctls)
	validateModules(c.at("modules"), m.Modules)
}

var diskName = regexp.MustCompile(`^((/dev/)?[A-Za-z0-9]+|serial:[ -~]+)$`)

const maxDiskName = 80

func validateInstall(c check, i Install) {
	if i == (Install{}) {
		return
	}
	if len(i.Disk) > maxDiskName || !diskName.MatchString(i.Disk) {
		c.at("disk").errorf("%s is no disk: a name (vda, /dev/sda), serial:NUMBER, first, smallest or largest", shorten(i.Disk))
		return
	}
	if i.Wipe && slices.Contains([]string{"first", "smallest", "largest"}, i.Disk) {
		c.at("wipe").errorf("a disk that may be wiped must be named, by its name or serial number, and not by %q", i.Disk)
	}
}

func validateStorage(c check, s Storage) {
	switch s.OSImage {
	case "", OSImageAuto, OSImageMemory, OSImageDisk:
	default:
		c.at("osImage").errorf("%s is no place for the OS image: auto, memory or disk", shorten(s.OSImage))
	}
}

// The patterns of this package have no bounds on lengths, which are checked
// beside: a counted repetition is compiled into as many copies, tens of kilobytes of
// a machine's memory.
var hostLabel = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$`)

// maxHostName is the kernel's bound.
const maxHostName = 64

func validateHostName(c check, name string) {
	if len(name) > maxHostName {
		c.errorf("%s is longer than %d letters", shorten(name), maxHostName)
		return
	}
	if !isDomain(name) {
		c.errorf("%s is not a host name: letters, digits and hyphens, parts joined by dots (RFC 1123)", shorten(name))
	}
}

// IsHostName says whether a machine can have the name.
func IsHostName(name string) bool { return len(name) <= maxHostName && isDomain(name) }

// IsDomain says whether a name is one of letters, digits and hyphens, joined by dots.
func IsDomain(name string) bool { return isDomain(name) }

func isDomain(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(label) > 63 || !hostLabel.MatchString(label) {
			return false
		}
	}
	return true
}

func validateKeys(c check, keys []Key) {
	seen := map[string]int{}
	admin := false
	for i, k := range keys {
		at := c.index(i)
		switch k.Role {
		case "", RoleAdmin:
			admin = true
		case RoleOperator, RoleReader:
		default:
			at.at("role").errorf("%s is not a role: reader, operator or admin", shorten(string(k.Role)))
		}
		pub, err := sshkey.ParsePublic(k.Key)
		if err != nil {
			at.at("key").errorf("%s: %v", shorten(k.Key), err)
			continue
		}
		if first, ok := seen[pub.Fingerprint]; ok {
			at.at("key").errorf("the key %s is the same as keys[%d]", pub.Fingerprint, first)
		}
		seen[pub.Fingerprint] = i
	}
	switch {
	case len(keys) == 0:
		c.warnf("there are no keys: nobody can log in to this machine")
	case !admin:
		c.warnf("no key is an admin's: nobody can change this configuration through the API")
	}
}

// EffectiveRole is the role that the key gives.
func (k Key) EffectiveRole() Role {
	if k.Role == "" {
		return RoleAdmin
	}
	return k.Role
}

func validateContainers(c check, x Containers) {
	for i, p := range x.AllowedHostPaths {
		validateHostPath(c.at("allowedHostPaths").index(i), p)
	}
	if x.AddressPool4 != "" {
		validatePool(c.at("addressPool4"), x.AddressPool4, true)
	}
	if x.AddressPool6 != "" {
		validatePool(c.at("addressPool6"), x.AddressPool6, false)
	}
	const shutdown = 80 * time.Second
	switch at := c.at("stopTimeout"); {
	case x.StopTimeout < 0:
		at.errorf("%s is negative", x.StopTimeout)
	case x.StopTimeout > 0 && x.StopTimeout < time.Millisecond:
		at.errorf("%s is less than a millisecond", x.StopTimeout)
	case x.StopTimeout > shutdown:
		at.errorf("%s is longer than %s, when the machine ends what still runs", x.StopTimeout, shutdown)
	}
}

// ownPaths hold the machine's secrets and other containers' data.
var ownPaths = []string{"/state", "/run/wherry"}

func validateHostPath(c check, p string) {
	switch {
	case !path.IsAbs(p) || strings.ContainsRune(p, 0) || len(p) > 4000:
		c.errorf("%s is not an absolute path", shorten(p))
		return
	case path.Clean(p) != p:
		c.errorf("%s is not a clean path: write %s", shorten(p), shorten(path.Clean(p)))
		return
	}
	for _, own := range ownPaths {
		if within(p, own) || within(own, p) {
			c.errorf("%s is or holds %s, which is the machine's own: use a volume", shorten(p), own)
			return
		}
	}
}

// within says whether p is dir or below it; both are clean.
func within(p, dir string) bool {
	return dir == "/" || p == dir || strings.HasPrefix(p, dir+"/")
}

var containerName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

func validateSystemContainers(c check, list []SystemContainer) {
	seen := map[string]bool{}
	for i, s := range list {
		at := c.index(i)
		switch {
		case s.Name == "":
			at.at("name").errorf("is missing")
		case len(s.Name) > 128 || !containerName.MatchString(s.Name):
			at.at("name").errorf("%s is not a container name: letters, digits, '_', '.' and '-', beginning with a letter or digit", shorten(s.Name))
		case seen[s.Name]:
			at.at("name").errorf("%s is the name of another system container", shorten(s.Name))
		}
		seen[s.Name] = true
		if s.Image == "" {
			at.at("image").errorf("is missing")
		} else if _, err := reference.ParseNormalizedNamed(s.Image); err != nil {
			at.at("image").errorf("%s is not an image name: %v", shorten(s.Image), err)
		}
		validateEnv(at.at("env"), s.Env)
		validateArguments(at.at("entrypoint"), s.Entrypoint)
		validateArguments(at.at("command"), s.Command)
	}
}

func validateEnv(c check, env []string) {
	for i, e := range env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" || strings.ContainsRune(e, 0) {
			c.index(i).errorf("%s is not NAME=value", shorten(e))
		}
	}
}

func validateArguments(c check, args []string) {
	for i, a := range args {
		if strings.ContainsRune(a, 0) {
			c.index(i).errorf("%s holds a zero byte", shorten(a))
		}
	}
}

var sysctlPart = regexp.MustCompile(`^[A-Za-z0-9_/-]+$`)

// ownSysctls are those whose change would break what the machine relies on.
var ownSysctls = map[string]string{
	"kernel.modprobe":              "the kernel's calls for modules are answered by PID 1",
	"kernel.core_pattern":          "a program named there would run with all rights",
	"net.ipv4.ip_forward":          "container networks need forwarding",
	"net.ipv6.conf.all.forwarding": "container networks need forwarding",
}

func validateSysctls(c check, sysctls map[string]string) {
	for name, value := range sysctls {
		at := check{c.add, mapPath(c.path, name)}
		parts := strings.Split(name, ".")
		bad := slices.ContainsFunc(parts, func(p string) bool { return !sysctlPart.MatchString(p) || strings.HasPrefix(p, "/") })
		switch {
		case bad || len(parts) < 2 || len(name) > 200:
			at.errorf("%s is not the dotted name of a kernel setting, like vm.swappiness", shorten(name))
		case ownSysctls[name] != "":
			at.errorf("cannot be set: %s", ownSysctls[name])
		case len(value) > 1024 || strings.ContainsAny(value, "\n\x00"):
			at.errorf("the value must be one line of at most 1024 bytes")
		case value == "":
			at.errorf("the value is empty")
		}
	}
}

var moduleName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_-]*$`)

func validateModules(c check, modules []string) {
	for i, m := range modules {
		if len(m) > 64 || !moduleName.MatchString(m) {
			c.index(i).errorf("%s is not the name of a kernel module (parameters and paths are not supported)", shorten(m))
		}
	}
}
