// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package sysctl

import (
	"os"
	"strings"
	"testing"
)

func TestPath(t *testing.T) {
	for name, want := range map[string]string{
		"vm.max_map_count":                   "/proc/sys/vm/max_map_count",
		"net/ipv4/conf/eth0.100/forwarding":  "/proc/sys/net/ipv4/conf/eth0.100/forwarding",
		"net.ipv4.conf.all.rp_filter":        "/proc/sys/net/ipv4/conf/all/rp_filter",
		"":                                   "",
		"vm":                                 "",
		"..":                                 "",
		"vm/../../etc/passwd":                "",
		"vm//x":                              "",
		"/vm/x":                              "",
		"vm/x/":                              "",
		"vm.x\n":                             "",
		"vm. x":                              "",
		"vm." + strings.Repeat("x", maxName): "",
	} {
		got, err := path(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("path(%.40q) = %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestCheckValue(t *testing.T) {
	for _, v := range []string{"1\n2", "\x00", strings.Repeat("1", maxValue+1)} {
		if Check("vm.max_map_count", v) == nil {
			t.Errorf("%.20q was accepted", v)
		}
	}
}

// TestKernel reads what every kernel has, and sets it to what it is, which
// must not need the right to change it.
func TestKernel(t *testing.T) {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Skip(err)
	}
	got, err := Get("kernel.osrelease")
	if err != nil || got != strings.TrimSpace(string(text)) {
		t.Errorf("Get: %q, %v", got, err)
	}
	if err := Set("kernel.osrelease", got); err != nil {
		t.Errorf("setting what is set: %v", err)
	}
	if err := Set("kernel.osrelease", "other"); err == nil {
		t.Error("the kernel's release was changed")
	}
	if _, err := Get("kernel.no_such_setting"); err == nil {
		t.Error("a setting that does not exist was read")
	}
}
