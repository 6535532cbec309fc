// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"wherry.example/wherry/api/wherryv1"
)

// Bounds of a request. They are far above what people write and far below what
// would hurt the machine or what the kernel refuses with a riddle.
const (
	maxArgs       = 4096
	maxArgsBytes  = 1 << 20
	maxText       = 4096
	maxList       = 256
	maxMounts     = 256
	maxTmpfs      = 1 << 40
	maxPorts      = 4096
	maxStopSecs   = 24 * 3600
	minMemory     = 6 << 20
	maxLabelBytes = 256 << 10
)

var (
	hostnamePattern = pattern{regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9-]*(\.[a-zA-Z0-9][a-zA-Z0-9-]*)*$`), 253}
	sysctlPattern   = regexp.MustCompile(`^[a-z0-9_]+([./][a-zA-Z0-9_-]+)+$`)
	cpusetPattern   = regexp.MustCompile(`^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$`)
	volumePattern   = pattern{regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`), 128}
	tmpfsOption     = pattern{regexp.MustCompile(`^(noexec|exec|nosuid|suid|nodev|ro|rw|noatime|mode=[0-7]?[0-7][0-7][0-7]|uid=[0-9]+|gid=[0-9]+|size=[0-9]+[kmgKMG]?|nr_inodes=[0-9]+)$`), 24}
)

// isHostname says whether s is a DNS name: labels of at most 63 bytes.
func isHostname(s string) bool {
	return hostnamePattern.MatchString(s) && !slices.ContainsFunc(strings.Split(s, "."), func(label string) bool { return len(label) > 63 })
}

// checkSpec refuses what can never work, before anything is made. It looks at
// the request alone; what depends on the image is checked when it is filled in.
func checkSpec(s *wherryv1.ContainerSpec) error {
	if s.GetImage() == "" {
		return errorf(KindInvalid, "no image is named")
	}
	for _, check := range []func(*wherryv1.ContainerSpec) error{
		checkTexts, checkLists, checkLabels, checkNames, checkMounts, checkUlimits, checkSysctls, checkResources, checkTimes, checkNetwork,
	} {
		if err := check(s); err != nil {
			return withKind(KindInvalid, err)
		}
	}
	return nil
}

func checkText(what, s string) error {
	if len(s) > maxText {
		return fmt.Errorf("%s is %d bytes long; at most %d", what, len(s), maxText)
	}
	if strings.ContainsRune(s, 0) {
		return fmt.Errorf("%s contains a NUL byte", what)
	}
	return nil
}

func checkTexts(s *wherryv1.ContainerSpec) error {
	for what, text := range map[string]string{"image": s.Image, "user": s.User, "hostname": s.Hostname, "domain name": s.Domainname,
		"stop signal": s.StopSignal, "name": s.Name} {
		if err := checkText(what, text); err != nil {
			return err
		}
	}
	return checkWorkdir(s.Workdir)
}

func checkWorkdir(dir string) error {
	if dir != "" && !path.IsAbs(dir) {
		return fmt.Errorf("working directory %.100q is not absolute", dir)
	}
	return checkText("working directory", dir)
}

// checkArgs bounds a command line as the kernel does, with a clear message.
func checkArgs(what string, args []string) error {
	if len(args) > maxArgs {
		return fmt.Errorf("%s has %d elements; at most %d", what, len(args), maxArgs)
	}
	total := 0
	for _, a := range args {
		if strings.ContainsRune(a, 0) {
			return fmt.Errorf("%s contains a NUL byte", what)
		}
		total += len(a) + 1
	}
	if total > maxArgsBytes {
		return fmt.Errorf("%s is %d bytes long; at most %d", what, total, maxArgsBytes)
	}
	return nil
}

func checkEnv(env []string) error {
	for _, e := range env {
		if name, _, _ := strings.Cut(e, "="); name == "" {
			return fmt.Errorf("environment entry %.100q has no name", e)
		}
	}
	return checkArgs("environment", env)
}

func checkLists(s *wherryv1.ContainerSpec) error {
	for what, args := range map[string][]string{"entrypoint": s.Entrypoint, "command": s.Command} {
		if err := checkArgs(what, args); err != nil {
			return err
		}
	}
	if err := checkEnv(s.Env); err != nil {
		return err
	}
	for what, list := range map[string][]string{"extra hosts": s.ExtraHosts, "added capabilities": s.CapAdd, "dropped capabilities": s.CapDrop,
		"DNS servers": s.Dns, "DNS search domains": s.DnsSearch, "groups": s.GroupAdd} {
		if len(list) > maxList {
			return fmt.Errorf("%d %s; at most %d", len(list), what, maxList)
		}
		for _, e := range list {
			if err := checkText(what, e); err != nil {
				return err
			}
			if e == "" || strings.ContainsAny(e, "\n\r") {
				return fmt.Errorf("%s: %.100q is not a value", what, e)
			}
		}
	}
	return nil
}

func checkLabels(s *wherryv1.ContainerSpec) error {
	total := 0
	for k, v := range s.Labels {
		if k == "" || strings.ContainsRune(k+v, 0) {
			return fmt.Errorf("label %.100q is not a label", k)
		}
		total += len(k) + len(v)
	}
	if len(s.Labels) > 1024 || total > maxLabelBytes {
		return fmt.Errorf("%d labels of %d bytes; at most 1024 of %d", len(s.Labels), total, maxLabelBytes)
	}
	return nil
}

func checkNames(s *wherryv1.ContainerSpec) error {
	for what, h := range map[string]string{"hostname": s.Hostname, "domain name": s.Domainname} {
		if h != "" && !isHostname(h) {
			return fmt.Errorf("%s %.100q is not a host name", what, h)
		}
	}
	if len(s.Hostname) > 64 {
		return fmt.Errorf("hostname is %d bytes long; the kernel takes 64", len(s.Hostname))
	}
	for _, h := range s.ExtraHosts {
		if _, _, err := splitExtraHost(h); err != nil {
			return err
		}
	}
	for _, d := range s.Dns {
		if _, err := netip.ParseAddr(d); err != nil {
			return fmt.Errorf("DNS server %.100q is not an address", d)
		}
	}
	for _, d := range s.DnsSearch {
		if d != "." && !isHostname(strings.TrimSuffix(d, ".")) {
			return fmt.Errorf("DNS search domain %.100q is not a domain", d)
		}
	}
	if _, err := capabilities(s.CapAdd, s.CapDrop); err != nil {
		return err
	}
	_, err := parseSignal(s.StopSignal)
	return err
}

// splitExtraHost reads name:address or name=address; the address may be IPv6, in brackets or not.
func splitExtraHost(h string) (name string, addr netip.Addr, err error) {
	i := strings.IndexAny(h, ":=")
	if i <= 0 || !isHostname(h[:i]) {
		return "", addr, fmt.Errorf("extra host %.100q is not name:address", h)
	}
	addr, err = netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(h[i+1:], "["), "]"))
	if err != nil || addr.Zone() != "" {
		return "", addr, fmt.Errorf("extra host %.100q has no address", h)
	}
	return h[:i], addr, nil
}

// checkTarget wants an absolute path that is not the root or the engine's own.
func checkTarget(t string) error {
	if err := checkText("mount target", t); err != nil {
		return err
	}
	switch {
	case !path.IsAbs(t) || slices.Contains(strings.Split(t, "/"), ".."):
		return fmt.Errorf("mount target %.100q is not an absolute path without ..", t)
	case path.Clean(t) == "/":
		return fmt.Errorf("the container's root cannot be a mount target")
	}
	for _, own := range []string{"/proc", "/sys", "/dev/pts", "/dev/mqueue"} {
		if c := path.Clean(t); c == own || strings.HasPrefix(c, own+"/") {
			return fmt.Errorf("mount target %.100q lies in %s, which is the container's own", t, own)
		}
	}
	return nil
}

func checkMounts(s *wherryv1.ContainerSpec) error {
	if len(s.Mounts) > maxMounts {
		return fmt.Errorf("%d mounts; at most %d", len(s.Mounts), maxMounts)
	}
	seen := map[string]bool{}
	for _, m := range s.Mounts {
		if m == nil {
			return fmt.Errorf("an empty mount")
		}
		if err := checkTarget(m.Target); err != nil {
			return err
		}
		if c := path.Clean(m.Target); seen[c] {
			return fmt.Errorf("two mounts at %s", c)
		} else {
			seen[c] = true
		}
		if err := checkMountSource(m); err != nil {
			return err
		}
	}
	return nil
}

func checkMountSource(m *wherryv1.Mount) error {
	switch m.Kind {
	case wherryv1.Mount_KIND_VOLUME:
		if m.Source != "" && !volumePattern.MatchString(m.Source) {
			return fmt.Errorf("volume name %.100q: only letters, digits, _ . and -", m.Source)
		}
	case wherryv1.Mount_KIND_BIND:
		if !path.IsAbs(m.Source) {
			return fmt.Errorf("host path %.100q is not absolute", m.Source)
		}
		if !m.ReadOnly {
			return fmt.Errorf("host path %.100q can be mounted read-only alone; keep data in a volume", m.Source)
		}
		return checkText("host path", m.Source)
	case wherryv1.Mount_KIND_TMPFS:
		if m.TmpfsBytes > maxTmpfs || m.TmpfsMode > 0o7777 || len(m.TmpfsOptions) > 32 {
			return fmt.Errorf("tmpfs at %s: size, mode or number of options is out of bounds", m.Target)
		}
		for _, o := range m.TmpfsOptions {
			if !tmpfsOption.MatchString(o) {
				return fmt.Errorf("tmpfs option %.100q is not known", o)
			}
		}
	default:
		return fmt.Errorf("mount kind %d is not known", m.Kind)
	}
	return nil
}

func checkTimes(s *wherryv1.ContainerSpec) error {
	if s.StopTimeout != nil {
		if d := s.StopTimeout.AsDuration(); d < 0 || d > maxStopSecs*time.Second {
			return fmt.Errorf("stop timeout %v is out of bounds", d)
		}
	}
	if r := s.Restart; r != nil {
		if _, known := wherryv1.RestartPolicy_Kind_name[int32(r.Kind)]; !known {
			return fmt.Errorf("restart policy %d is not known", r.Kind)
		}
		if r.MaxRetries > 0 && r.Kind != wherryv1.RestartPolicy_KIND_ON_FAILURE {
			return fmt.Errorf("a number of retries goes with restart policy on-failure alone")
		}
		if s.AutoRemove && r.Kind != wherryv1.RestartPolicy_KIND_NO {
			return fmt.Errorf("a container that is removed at its end cannot have a restart policy")
		}
	}
	if s.Init {
		return fmt.Errorf("an init inside the container is not offered by this version")
	}
	return checkHealth(s.Health)
}
