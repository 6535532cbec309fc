// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"path"
	"slices"
	"sort"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"wherry.example/wherry/api/wherryv1"
)

// bundle is everything beside the effective specification that the runtime's
// specification depends on. Building it does no I/O: what had to be looked up
// was looked up before.
type bundle struct {
	ID         string
	RootFS     string
	Files      string // directory of hostname, hosts and resolv.conf
	CgroupPath string
	User       specs.User
	Home       string // for HOME when the environment has none
	Mounts     []boundMount
	HostName   string // the machine's, for containers on its network
}

// boundMount is a mount whose host directory is known.
type boundMount struct {
	*wherryv1.Mount
	HostPath string // empty for tmpfs
}

// ociSpec turns an effective specification into what runc executes.
func ociSpec(s *wherryv1.ContainerSpec, b bundle) (*specs.Spec, error) {
	caps, err := capabilities(s.CapAdd, s.CapDrop)
	if err != nil {
		return nil, err
	}
	out := &specs.Spec{
		Version:  "1.2.1",
		Root:     &specs.Root{Path: b.RootFS, Readonly: s.ReadOnly},
		Hostname: s.Hostname, Domainname: s.Domainname,
		Process: ociProcess(s, b, caps),
		Mounts:  ociMounts(s, b),
		Linux: &specs.Linux{
			CgroupsPath:   b.CgroupPath,
			Namespaces:    namespacesOf(s),
			MaskedPaths:   maskedPaths,
			ReadonlyPaths: readonlyPaths,
			Resources:     ociResources(s.Resources),
			Sysctl:        ociSysctls(s),
		},
	}
	if s.NetworkMode == wherryv1.NetworkMode_NETWORK_MODE_HOST && out.Hostname == "" {
		out.Hostname = b.HostName
	}
	if out.Linux.Seccomp, err = seccompProfile(out); err != nil {
		return nil, err
	}
	return out, nil
}

func ociProcess(s *wherryv1.ContainerSpec, b bundle, caps []string) *specs.Process {
	env := slices.Clone(s.Env)
	if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "HOME=") }) && b.Home != "" {
		env = append(env, "HOME="+b.Home)
	}
	if s.Hostname != "" && !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "HOSTNAME=") }) {
		env = append(env, "HOSTNAME="+s.Hostname)
	}
	p := &specs.Process{
		Terminal: s.Tty, User: b.User, Env: env, Cwd: s.Workdir,
		Args:            append(slices.Clone(s.Entrypoint), s.Command...),
		NoNewPrivileges: s.NoNewPrivileges,
		Capabilities:    ociCapabilities(caps, b.User.UID),
	}
	// Always said, else the container would inherit the protection from lack
	// of memory that this process and so its shim have.
	adj := 0
	if s.OomScoreAdjSet {
		adj = int(s.OomScoreAdj)
	}
	p.OOMScoreAdj = &adj
	for _, u := range s.Ulimits {
		p.Rlimits = append(p.Rlimits, specs.POSIXRlimit{Type: rlimits[u.Name], Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
	}
	return p
}

// ociCapabilities gives the bounding set to everyone and the rest to root
// alone: another user gains them by executing a file that has them.
func ociCapabilities(caps []string, uid uint32) *specs.LinuxCapabilities {
	c := &specs.LinuxCapabilities{Bounding: caps}
	if uid == 0 {
		c.Effective, c.Permitted = caps, caps
	}
	return c
}

func namespacesOf(s *wherryv1.ContainerSpec) []specs.LinuxNamespace {
	types := []specs.LinuxNamespaceType{specs.MountNamespace, specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace}
	if s.NetworkMode != wherryv1.NetworkMode_NETWORK_MODE_HOST {
		types = append(types, specs.NetworkNamespace)
	}
	var ns []specs.LinuxNamespace
	for _, t := range types {
		ns = append(ns, specs.LinuxNamespace{Type: t})
	}
	return ns
}

// What docker masks and makes read-only.
var (
	maskedPaths = []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func ociSysctls(s *wherryv1.ContainerSpec) map[string]string {
	m := map[string]string{}
	if s.NetworkMode != wherryv1.NetworkMode_NETWORK_MODE_HOST {
		// As docker's: a network namespace is the container's own, so any of
		// its users may bind low ports and send pings.
		m["net.ipv4.ip_unprivileged_port_start"] = "0"
		m["net.ipv4.ping_group_range"] = "0 2147483647"
	}
	for k, v := range s.Sysctls {
		m[strings.ReplaceAll(k, "/", ".")] = v
	}
	return m
}

func ociMounts(s *wherryv1.ContainerSpec, b bundle) []specs.Mount {
	m := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
	}
	if !slices.ContainsFunc(b.Mounts, func(x boundMount) bool { return x.Target == "/dev/shm" }) {
		m = append(m, specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm",
			Options: []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", s.ShmBytes)}})
	}
	for _, f := range etcFiles {
		target := "/etc/" + f
		if !slices.ContainsFunc(b.Mounts, func(x boundMount) bool { return x.Target == target }) {
			o := []string{"rbind", "rprivate"}
			if s.ReadOnly {
				o = append(o, "ro")
			}
			m = append(m, specs.Mount{Destination: target, Type: "bind", Source: path.Join(b.Files, f), Options: o})
		}
	}
	// Parents before children, whatever the order they were asked for in.
	own := slices.Clone(b.Mounts)
	sort.SliceStable(own, func(i, j int) bool { return strings.Count(own[i].Target, "/") < strings.Count(own[j].Target, "/") })
	for _, x := range own {
		m = append(m, ociMount(x))
	}
	return m
}

func ociMount(x boundMount) specs.Mount {
	if x.Kind == wherryv1.Mount_KIND_TMPFS {
		return ociTmpfs(x)
	}
	o := []string{"rbind", "rprivate"}
	switch {
	case x.Kind == wherryv1.Mount_KIND_BIND: // with all that is mounted below it
		o = append(o, "rnosuid", "rnodev", "rro")
	case x.ReadOnly:
		o = append(o, "ro")
	}
	return specs.Mount{Destination: x.Target, Type: "bind", Source: x.HostPath, Options: o}
}

func ociTmpfs(x boundMount) specs.Mount {
	o := []string{"nosuid", "nodev", "noexec"}
	for _, given := range x.TmpfsOptions {
		switch given {
		case "exec", "suid": // undo the default
			o = slices.DeleteFunc(o, func(d string) bool { return d == "no"+given })
		}
		o = append(o, given)
	}
	if x.TmpfsBytes > 0 {
		o = append(o, fmt.Sprintf("size=%d", x.TmpfsBytes))
	}
	if x.TmpfsMode > 0 {
		o = append(o, fmt.Sprintf("mode=%o", x.TmpfsMode))
	}
	if x.ReadOnly {
		o = append(o, "ro")
	}
	return specs.Mount{Destination: x.Target, Type: "tmpfs", Source: "tmpfs", Options: o}
}

const cpuPeriod = 100_000 // µs

func ociResources(r *wherryv1.Resources) *specs.LinuxResources {
	out := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	for _, d := range allowedDevices {
		out.Devices = append(out.Devices, d)
	}
	if r == nil {
		return out
	}
	if r.MemoryBytes > 0 {
		limit := int64(r.MemoryBytes)
		swap := limit * 2 // docker's default: as much swap again
		if r.MemorySwapBytes > 0 {
			swap = int64(r.MemorySwapBytes)
		}
		out.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &swap}
	}
	if r.NanoCpus > 0 || r.CpuShares > 0 || r.Cpuset != "" {
		out.CPU = &specs.LinuxCPU{Cpus: r.Cpuset}
		if r.NanoCpus > 0 {
			quota, period := r.NanoCpus*cpuPeriod/1e9, uint64(cpuPeriod)
			out.CPU.Quota, out.CPU.Period = &quota, &period
		}
		if r.CpuShares > 0 {
			out.CPU.Shares = &r.CpuShares
		}
	}
	if r.Pids != 0 {
		out.Pids = &specs.LinuxPids{Limit: &r.Pids}
	}
	return out
}

// allowedDevices are docker's: any may be made, these may be used.
var allowedDevices = func() []specs.LinuxDeviceCgroup {
	all, major := int64(-1), func(n int64) *int64 { return &n }
	list := []specs.LinuxDeviceCgroup{{Allow: true, Type: "c", Major: &all, Minor: &all, Access: "m"}, {Allow: true, Type: "b", Major: &all, Minor: &all, Access: "m"}}
	for _, d := range [][2]int64{{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 1}, {5, 2}, {136, -1}} {
		list = append(list, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: major(d[0]), Minor: major(d[1]), Access: "rwm"})
	}
	return list
}()
