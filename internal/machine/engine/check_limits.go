// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/api/wherryv1"
)

var rlimits = map[string]string{"as": "RLIMIT_AS", "core": "RLIMIT_CORE", "cpu": "RLIMIT_CPU", "data": "RLIMIT_DATA", "fsize": "RLIMIT_FSIZE",
	"locks": "RLIMIT_LOCKS", "memlock": "RLIMIT_MEMLOCK", "msgqueue": "RLIMIT_MSGQUEUE", "nice": "RLIMIT_NICE", "nofile": "RLIMIT_NOFILE",
	"nproc": "RLIMIT_NPROC", "rss": "RLIMIT_RSS", "rtprio": "RLIMIT_RTPRIO", "rttime": "RLIMIT_RTTIME", "sigpending": "RLIMIT_SIGPENDING", "stack": "RLIMIT_STACK"}

func checkUlimits(s *wherryv1.ContainerSpec) error {
	seen := map[string]bool{}
	for _, u := range s.Ulimits {
		switch {
		case u == nil || rlimits[u.Name] == "":
			return fmt.Errorf("ulimit %.40q is not known", u.GetName())
		case seen[u.Name]:
			return fmt.Errorf("ulimit %s is given twice", u.Name)
		case u.Soft < -1 || u.Hard < -1 || u.Hard != -1 && (u.Soft > u.Hard || u.Soft == -1):
			return fmt.Errorf("ulimit %s: the soft limit is above the hard one", u.Name)
		}
		seen[u.Name] = true
	}
	return nil
}

// namespacedSysctls of the IPC namespace; of the network namespace all below net.
var namespacedSysctls = []string{"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
	"kernel.shmmni", "kernel.shm_rmid_forced"}

// checkSysctls allows only what belongs to a namespace of the container: the
// others would change the machine.
func checkSysctls(s *wherryv1.ContainerSpec) error {
	if len(s.Sysctls) > maxList {
		return fmt.Errorf("%d sysctls; at most %d", len(s.Sysctls), maxList)
	}
	for k, v := range s.Sysctls {
		if !sysctlPattern.MatchString(k) || len(k) > 200 || len(v) > 1024 || strings.ContainsAny(v, "\x00\n") {
			return fmt.Errorf("sysctl %.100q is not a name and value", k)
		}
		name := strings.ReplaceAll(k, "/", ".")
		net := strings.HasPrefix(name, "net.")
		if net && s.NetworkMode == wherryv1.NetworkMode_NETWORK_MODE_HOST {
			return fmt.Errorf("sysctl %s would change the machine's network: the container has no network of its own", name)
		}
		if !net && !strings.HasPrefix(name, "fs.mqueue.") && !slices.Contains(namespacedSysctls, name) {
			return fmt.Errorf("sysctl %s does not belong to a container; set it in the machine's configuration", name)
		}
	}
	return nil
}

func checkResources(s *wherryv1.ContainerSpec) error {
	if s.ShmBytes > maxTmpfs {
		return fmt.Errorf("/dev/shm of %d bytes is out of bounds", s.ShmBytes)
	}
	if s.OomScoreAdjSet && (s.OomScoreAdj < -1000 || s.OomScoreAdj > 1000) {
		return fmt.Errorf("OOM score adjustment %d is not within -1000 and 1000", s.OomScoreAdj)
	}
	if l := s.Log; l != nil && (l.MaxFiles > 100 || l.MaxBytes > 1<<40 || l.MaxBytes != 0 && l.MaxBytes < 64<<10) {
		return fmt.Errorf("log options: at most 100 files, of at least 64 KiB each")
	}
	r := s.Resources
	switch {
	case r == nil:
		return nil
	case r.MemoryBytes != 0 && r.MemoryBytes < minMemory:
		return fmt.Errorf("a memory limit of %d bytes is too small to start anything; at least %d", r.MemoryBytes, minMemory)
	case r.MemoryBytes > 1<<60 || r.MemorySwapBytes > 1<<60:
		return fmt.Errorf("the memory limit is out of bounds")
	case r.MemorySwapBytes != 0 && r.MemorySwapBytes < r.MemoryBytes:
		return fmt.Errorf("the limit of memory and swap together is below the memory limit")
	case r.MemorySwapBytes != 0 && r.MemoryBytes == 0:
		return fmt.Errorf("a limit of memory and swap together needs a memory limit")
	case r.NanoCpus < 0 || r.NanoCpus > int64(runtime.NumCPU())*1e9:
		return fmt.Errorf("%.2f CPUs are asked for; the machine has %d", float64(r.NanoCpus)/1e9, runtime.NumCPU())
	case r.NanoCpus > 0 && r.NanoCpus < 1e7:
		return fmt.Errorf("less than 0.01 CPU cannot be measured out")
	case r.Pids < -1 || r.Pids > 1<<22:
		return fmt.Errorf("a limit of %d processes is out of bounds", r.Pids)
	case r.CpuShares != 0 && (r.CpuShares < 2 || r.CpuShares > 262144):
		return fmt.Errorf("CPU shares %d are not within 2 and 262144", r.CpuShares)
	case r.Cpuset != "" && (len(r.Cpuset) > 256 || !cpusetPattern.MatchString(r.Cpuset)):
		return fmt.Errorf("CPU set %.60q is not a list of CPUs", r.Cpuset)
	}
	return nil
}

func checkNetwork(s *wherryv1.ContainerSpec) error {
	if _, known := wherryv1.NetworkMode_name[int32(s.NetworkMode)]; !known {
		return fmt.Errorf("network mode %d is not known", s.NetworkMode)
	}
	if len(s.Networks) > 64 || len(s.Ports) > maxPorts {
		return fmt.Errorf("%d networks and %d port mappings; at most 64 and %d", len(s.Networks), len(s.Ports), maxPorts)
	}
	if s.NetworkMode != wherryv1.NetworkMode_NETWORK_MODE_BRIDGE && (len(s.Networks) > 0 || len(s.Ports) > 0) {
		return fmt.Errorf("networks and ports go with containers on a container network alone")
	}
	for _, n := range s.Networks {
		if n == nil || n.Network == "" || len(n.Aliases) > 64 {
			return fmt.Errorf("a network without a name, or with more than 64 aliases")
		}
	}
	if slices.Contains(s.Ports, nil) {
		return fmt.Errorf("an empty port mapping")
	}
	return nil
}

func checkHealth(h *wherryv1.HealthCheck) error {
	if h == nil {
		return nil
	}
	if err := checkArgs("health check", h.Test); err != nil {
		return err
	}
	if len(h.Test) > 0 {
		switch h.Test[0] {
		case "NONE":
		case "CMD", "CMD-SHELL":
			if len(h.Test) < 2 {
				return fmt.Errorf("health check %s names no command", h.Test[0])
			}
		default:
			return fmt.Errorf("health check %.40q is not CMD, CMD-SHELL or NONE", h.Test[0])
		}
	}
	for what, d := range map[string]interface{ AsDuration() time.Duration }{"interval": h.Interval, "timeout": h.Timeout, "start period": h.StartPeriod} {
		if v := d.AsDuration(); v < 0 || v > 24*time.Hour || v > 0 && v < time.Millisecond {
			return fmt.Errorf("health check %s %v is not within 1 ms and a day", what, v)
		}
	}
	if h.Retries > 1000 {
		return fmt.Errorf("health check retries %d are out of bounds", h.Retries)
	}
	return nil
}

// parseSignal reads SIGTERM, TERM, term or 15. Empty is SIGTERM.
func parseSignal(s string) (unix.Signal, error) {
	if s == "" {
		return unix.SIGTERM, nil
	}
	var n int
	if _, err := fmt.Sscanf(s, "%d", &n); err == nil && fmt.Sprint(n) == s {
		if n < 1 || n > 64 {
			return 0, errorf(KindInvalid, "signal %d does not exist", n)
		}
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	if sig, ok := realtimeSignal(name); ok {
		return sig, nil
	}
	return 0, errorf(KindInvalid, "signal %.40q does not exist", s)
}

// realtimeSignal reads SIGRTMIN, SIGRTMIN+n, SIGRTMAX and SIGRTMAX-n, which
// images of systemd use (SIGRTMIN+3).
func realtimeSignal(name string) (unix.Signal, bool) {
	const first, last = 34, 64
	var n int
	switch {
	case name == "SIGRTMIN":
		return first, true
	case name == "SIGRTMAX":
		return last, true
	case strings.HasPrefix(name, "SIGRTMIN+"):
		if _, err := fmt.Sscanf(name, "SIGRTMIN+%d", &n); err == nil && n >= 0 && first+n <= last {
			return unix.Signal(first + n), true
		}
	case strings.HasPrefix(name, "SIGRTMAX-"):
		if _, err := fmt.Sscanf(name, "SIGRTMAX-%d", &n); err == nil && n >= 0 && last-n >= first {
			return unix.Signal(last - n), true
		}
	}
	return 0, false
}
