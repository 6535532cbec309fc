// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package hardening

import (
	"slices"

	"golang.org/x/sys/unix"
)

// Setting is one kernel setting and the reason for it.
type Setting struct {
	Name, Value string
	Why         string
	// Optional settings are missing in some kernels.
	Optional bool
}

// The table's words are few so that it is read as a table.
const (
	addresses = "kernel addresses help an attacker"
	surface   = "few need it, attackers do"
	links     = "no tricks with links, pipes and files of others in shared directories"
	routers   = "a host takes no routes from strangers"
	spoof     = "no packets with another's source address"
	crowd     = "many containers share one kernel"
	reboot    = "a broken kernel restarts, it does not limp"
)

// Defaults returns the table.
func Defaults() []Setting {
	var info unix.Sysinfo_t
	_ = unix.Sysinfo(&info) // it knows no errors but a bad address
	return slices.Concat(hide(), files(), network(), capacity(), reserve(uint64(info.Totalram)*uint64(info.Unit)))
}

// smallMemory is what a machine has less of for reserve to count.
const smallMemory = 1 << 30

// reserve is what the kernel keeps free for itself: 4 MB less than its default
// on a machine of 512 MB.
func reserve(memory uint64) []Setting {
	if memory >= smallMemory {
		return nil
	}
	return []Setting{{Name: "vm.min_free_kbytes", Value: "1024", Why: "a small machine needs its memory for containers"}}
}

// hide is what keeps programs from learning about the kernel and from reaching its rarely used parts.
func hide() []Setting {
	return []Setting{
		{Name: "kernel.kptr_restrict", Value: "2", Why: addresses},
		{Name: "kernel.dmesg_restrict", Value: "1", Why: addresses},
		{Name: "kernel.randomize_va_space", Value: "2", Why: addresses},
		{Name: "vm.mmap_min_addr", Value: "65536", Why: "a null pointer in the kernel must not be a program's page"},
		{Name: "vm.mmap_rnd_bits", Value: "32", Why: addresses, Optional: true},
		{Name: "vm.mmap_rnd_compat_bits", Value: "16", Why: addresses, Optional: true},
		{Name: "kernel.perf_event_paranoid", Value: "3", Why: surface, Optional: true},
		{Name: "kernel.unprivileged_bpf_disabled", Value: "1", Why: surface, Optional: true},
		// Not 2: blinding the constants of a filter that the runtime itself loads would be a fifth of a container's start.
		{Name: "net.core.bpf_jit_harden", Value: "1", Why: "constants in filters of the unprivileged are no code", Optional: true},
		{Name: "kernel.kexec_load_disabled", Value: "1", Why: "only the firmware starts a kernel", Optional: true},
		{Name: "kernel.yama.ptrace_scope", Value: "1", Why: "a program debugs only what it started", Optional: true},
		{Name: "vm.unprivileged_userfaultfd", Value: "0", Why: surface, Optional: true},
		{Name: "dev.tty.ldisc_autoload", Value: "0", Why: surface, Optional: true},
		{Name: "dev.tty.legacy_tiocsti", Value: "0", Why: "a program must not type on its starter's terminal", Optional: true},
		{Name: "kernel.sysrq", Value: "0", Why: "a keyboard must not command the kernel", Optional: true},
		{Name: "kernel.panic", Value: "10", Why: reboot},
		{Name: "kernel.panic_on_oops", Value: "1", Why: reboot},
	}
}

func files() []Setting {
	return []Setting{
		{Name: "fs.protected_symlinks", Value: "1", Why: links},
		{Name: "fs.protected_hardlinks", Value: "1", Why: links},
		{Name: "fs.protected_fifos", Value: "2", Why: links},
		{Name: "fs.protected_regular", Value: "2", Why: links},
		{Name: "fs.suid_dumpable", Value: "0", Why: "no core files of programs with other rights"},
	}
}

// network is set for "all" and, for links that come later, for "default".
// Reverse path filtering is loose: strict would drop what comes in on one link
// and is answered on another, as with containers on several networks.
func network() []Setting {
	out := []Setting{
		{Name: "net.ipv4.tcp_syncookies", Value: "1", Why: "a flood of openings must not keep others out"},
		{Name: "net.ipv4.tcp_rfc1337", Value: "1", Why: "no ends of old connections in new ones"},
		{Name: "net.ipv4.icmp_echo_ignore_broadcasts", Value: "1", Why: "no amplifier"},
		{Name: "net.ipv4.icmp_ignore_bogus_error_responses", Value: "1", Why: "no log full of them"},
	}
	for _, links := range []string{"all", "default"} {
		out = append(out,
			Setting{Name: "net.ipv4.conf." + links + ".rp_filter", Value: "2", Why: spoof},
			Setting{Name: "net.ipv4.conf." + links + ".accept_redirects", Value: "0", Why: routers},
			Setting{Name: "net.ipv4.conf." + links + ".secure_redirects", Value: "0", Why: routers},
			Setting{Name: "net.ipv4.conf." + links + ".send_redirects", Value: "0", Why: routers},
			Setting{Name: "net.ipv4.conf." + links + ".accept_source_route", Value: "0", Why: spoof},
			Setting{Name: "net.ipv6.conf." + links + ".accept_redirects", Value: "0", Why: routers, Optional: true},
			Setting{Name: "net.ipv6.conf." + links + ".accept_source_route", Value: "0", Why: spoof, Optional: true},
		)
	}
	return out
}

// capacity is what hundreds of containers need.
func capacity() []Setting {
	return []Setting{
		{Name: "kernel.pid_max", Value: "4194304", Why: crowd},
		{Name: "kernel.keys.root_maxkeys", Value: "1000000", Why: "each container has a keyring"},
		{Name: "kernel.keys.root_maxbytes", Value: "25000000", Why: "each container has a keyring"},
		{Name: "vm.max_map_count", Value: "1048576", Why: "databases and search engines map many files"},
		{Name: "vm.overcommit_memory", Value: "1", Why: "a container's limit bounds what it uses, not what it reserves"},
		{Name: "fs.inotify.max_user_instances", Value: "8192", Why: crowd},
		{Name: "fs.inotify.max_user_watches", Value: "1048576", Why: crowd},
		{Name: "fs.aio-max-nr", Value: "1048576", Why: crowd},
		{Name: "fs.file-max", Value: "9223372036854775807", Why: crowd},
		{Name: "net.core.somaxconn", Value: "4096", Why: "servers under load"},
		{Name: "net.ipv4.neigh.default.gc_thresh1", Value: "1024", Why: crowd},
		{Name: "net.ipv4.neigh.default.gc_thresh2", Value: "4096", Why: crowd},
		{Name: "net.ipv4.neigh.default.gc_thresh3", Value: "8192", Why: crowd},
		{Name: "net.ipv6.neigh.default.gc_thresh1", Value: "1024", Why: crowd, Optional: true},
		{Name: "net.ipv6.neigh.default.gc_thresh2", Value: "4096", Why: crowd, Optional: true},
		{Name: "net.ipv6.neigh.default.gc_thresh3", Value: "8192", Why: crowd, Optional: true},
	}
}
