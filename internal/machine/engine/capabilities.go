// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"slices"
	"strings"
)

// defaultCapabilities are docker's.
var defaultCapabilities = []string{"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT"}

// allCapabilities are those of Linux 6.12.
var allCapabilities = []string{"CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_AUDIT_WRITE", "CAP_BLOCK_SUSPEND", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_KILL", "CAP_LEASE",
	"CAP_LINUX_IMMUTABLE", "CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_MKNOD", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST",
	"CAP_NET_RAW", "CAP_PERFMON", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_SYS_BOOT",
	"CAP_SYS_CHROOT", "CAP_SYS_MODULE", "CAP_SYS_NICE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG", "CAP_WAKE_ALARM"}

// capabilities starts from the default set (or all, or none), drops, then adds:
// "--cap-drop ALL --cap-add X" leaves X alone, as docker's does.
func capabilities(add, drop []string) ([]string, error) {
	added, err := capabilityNames(add)
	if err != nil {
		return nil, err
	}
	dropped, err := capabilityNames(drop)
	if err != nil {
		return nil, err
	}
	base := defaultCapabilities
	if slices.Contains(added, "ALL") {
		base = allCapabilities
	}
	var set []string
	for _, c := range base {
		if !slices.Contains(dropped, c) && !slices.Contains(dropped, "ALL") || slices.Contains(added, "ALL") && !slices.Contains(dropped, c) {
			set = append(set, c)
		}
	}
	for _, c := range added {
		if c != "ALL" {
			set = append(set, c)
		}
	}
	slices.Sort(set)
	return slices.Compact(set), nil
}

func capabilityNames(list []string) ([]string, error) {
	names := make([]string, 0, len(list))
	for _, c := range list {
		n := strings.ToUpper(c)
		if n != "ALL" && !strings.HasPrefix(n, "CAP_") {
			n = "CAP_" + n
		}
		if n != "ALL" && !slices.Contains(allCapabilities, n) {
			return nil, errorf(KindInvalid, "capability %.40q does not exist", c)
		}
		names = append(names, n)
	}
	return names, nil
}
