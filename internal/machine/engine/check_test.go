// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	"wherry.example/wherry/api/wherryv1"
)

// TestBadRequests has one bad thing per request. Each must be refused with an
// error that says what it was.
func TestBadRequests(t *testing.T) {
	mount := func(m *wherryv1.Mount) *wherryv1.ContainerSpec {
		return &wherryv1.ContainerSpec{Mounts: []*wherryv1.Mount{m}}
	}
	limit := func(r *wherryv1.Resources) *wherryv1.ContainerSpec { return &wherryv1.ContainerSpec{Resources: r} }
	for says, s := range map[string]*wherryv1.ContainerSpec{
		"NUL":                      {Command: []string{"a\x00b"}},
		"elements":                 {Command: make([]string, 5000)},
		"bytes long":               {Command: []string{strings.Repeat("x", 2<<20)}},
		"has no name":              {Env: []string{"=x"}},
		"not absolute":             {Workdir: "here"},
		"labels":                   {Labels: map[string]string{"k": strings.Repeat("x", 300<<10)}},
		"not a label":              {Labels: map[string]string{"": "x"}},
		"not a host name":          {Hostname: "a b"},
		"the kernel takes 64":      {Hostname: strings.Repeat("a", 63) + "." + strings.Repeat("b", 20)},
		"not name:address":         {ExtraHosts: []string{"nohost"}},
		"has no address":           {ExtraHosts: []string{"a:nowhere"}},
		"not a value":              {ExtraHosts: []string{"a:1.2.3.4\nevil"}},
		"not an address":           {Dns: []string{"dns.example"}},
		"not a domain":             {DnsSearch: []string{"a\tb"}},
		"capability":               {CapAdd: []string{"NOPE"}},
		"signal \"NOPE\"":          {StopSignal: "NOPE"},
		"signal 65":                {StopSignal: "65"},
		"cannot be a mount target": mount(&wherryv1.Mount{Target: "/"}),
		"without ..":               mount(&wherryv1.Mount{Target: "/a/../b"}),
		"container's own":          mount(&wherryv1.Mount{Target: "/proc/self"}),
		"volume name":              mount(&wherryv1.Mount{Target: "/a", Source: "../x"}),
		"read-only alone":          mount(&wherryv1.Mount{Kind: wherryv1.Mount_KIND_BIND, Source: "/etc", Target: "/a"}),
		"host path \"etc\"":        mount(&wherryv1.Mount{Kind: wherryv1.Mount_KIND_BIND, Source: "etc", Target: "/a", ReadOnly: true}),
		"tmpfs option":             mount(&wherryv1.Mount{Kind: wherryv1.Mount_KIND_TMPFS, Target: "/a", TmpfsOptions: []string{"size=1,evil"}}),
		"mount kind":               mount(&wherryv1.Mount{Kind: 9, Target: "/a"}),
		"two mounts":               {Mounts: []*wherryv1.Mount{{Target: "/a"}, {Target: "/a/"}}},
		"an empty mount":           {Mounts: []*wherryv1.Mount{nil}},
		"ulimit \"fun\"":           {Ulimits: []*wherryv1.Ulimit{{Name: "fun"}}},
		"above the hard":           {Ulimits: []*wherryv1.Ulimit{{Name: "nofile", Soft: 5, Hard: 4}}},
		"given twice":              {Ulimits: []*wherryv1.Ulimit{{Name: "core"}, {Name: "core"}}},
		"does not belong":          {Sysctls: map[string]string{"kernel.panic": "1"}},
		"machine's network":        {Sysctls: map[string]string{"net.core.somaxconn": "1"}, NetworkMode: wherryv1.NetworkMode_NETWORK_MODE_HOST},
		"not a name and value":     {Sysctls: map[string]string{"net..x": "1"}},
		"too small":                limit(&wherryv1.Resources{MemoryBytes: 4096}),
		"below the memory limit":   limit(&wherryv1.Resources{MemoryBytes: 64 << 20, MemorySwapBytes: 32 << 20}),
		"needs a memory limit":     limit(&wherryv1.Resources{MemorySwapBytes: 32 << 20}),
		"the machine has":          limit(&wherryv1.Resources{NanoCpus: 1e15}),
		"0.01 CPU":                 limit(&wherryv1.Resources{NanoCpus: 5}),
		"processes":                limit(&wherryv1.Resources{Pids: -2}),
		"CPU shares":               limit(&wherryv1.Resources{CpuShares: 1}),
		"CPU set":                  limit(&wherryv1.Resources{Cpuset: "0,a"}),
		"stop timeout":             {StopTimeout: durationpb.New(-time.Second)},
		"restart policy 7":         {Restart: &wherryv1.RestartPolicy{Kind: 7}},
		"on-failure alone":         {Restart: &wherryv1.RestartPolicy{Kind: wherryv1.RestartPolicy_KIND_ALWAYS, MaxRetries: 2}},
		"cannot have a restart":    {Restart: &wherryv1.RestartPolicy{Kind: wherryv1.RestartPolicy_KIND_ALWAYS}, AutoRemove: true},
		"names no command":         {Health: &wherryv1.HealthCheck{Test: []string{"CMD"}}},
		"CMD-SHELL or NONE":        {Health: &wherryv1.HealthCheck{Test: []string{"RUN", "x"}}},
		"1 ms and a day":           {Health: &wherryv1.HealthCheck{Interval: durationpb.New(time.Nanosecond)}},
		"network mode":             {NetworkMode: 5},
		"container network alone":  {NetworkMode: wherryv1.NetworkMode_NETWORK_MODE_NONE, Ports: []*wherryv1.PortMapping{{ContainerPort: 1}}},
		"without a name":           {Networks: []*wherryv1.NetworkAttachment{{}}},
		"/dev/shm":                 {ShmBytes: 1 << 60},
		"OOM score":                {OomScoreAdjSet: true, OomScoreAdj: 2000},
		"log options":              {Log: &wherryv1.LogOptions{MaxBytes: 1}},
	} {
		s.Image = "i"
		err := checkSpec(s)
		if err == nil || KindOf(err) != KindInvalid || !strings.Contains(err.Error(), says) || len(err.Error()) > 400 {
			t.Errorf("%q: %.500v", says, err)
		}
	}
	good := &wherryv1.ContainerSpec{Image: "i", Hostname: "a.b-c", ExtraHosts: []string{"x:::1"}, StopSignal: "SIGRTMIN+3", Sysctls: map[string]string{"net.ipv4.tcp_rmem": "1 2 3"},
		Mounts:  []*wherryv1.Mount{{Target: "/a/"}, {Kind: wherryv1.Mount_KIND_TMPFS, Target: "/t", TmpfsOptions: []string{"mode=1777", "size=64m"}}},
		Ulimits: []*wherryv1.Ulimit{{Name: "nofile", Soft: 1024, Hard: -1}}}
	if err := checkSpec(good); err != nil {
		t.Errorf("a good request: %v", err)
	}
}

func TestParseSignal(t *testing.T) {
	for s, want := range map[string]unix.Signal{"": unix.SIGTERM, "9": 9, "kill": 9, "SIGHUP": 1, "RTMIN": 34, "SIGRTMIN+3": 37, "RTMAX-1": 63} {
		if got, err := parseSignal(s); err != nil || got != want {
			t.Errorf("%q: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"0", "-1", "65", "SIGRTMIN+99", "x y", "9x"} {
		if got, err := parseSignal(s); err == nil {
			t.Errorf("%q: %d", s, got)
		}
	}
}

func TestPatterns(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, c := range []struct {
		what string
		ok   func(string) bool
		good []string
		bad  []string
	}{
		{"host name", isHostname, []string{"a", "a-1.b", long, long + "." + long + "." + long + "." + long[:61]}, []string{"", "-a", "a..b", "a.", long + "a", long + "." + long + "." + long + "." + long, "a_b"}},
		{"container name", namePattern.MatchString, []string{"ab", "a_b.c-d", long + long + "ab"}, []string{"", "a", "_a", "a/b", long + long + "abc"}},
		{"volume name", volumePattern.MatchString, []string{"a", long + long + "ab"}, []string{"", ".a", long + long + "abc"}},
		{"tmpfs option", tmpfsOption.MatchString, []string{"mode=700", "mode=1777", "size=64m", "uid=1000", "ro"}, []string{"mode=77", "mode=17777", "mode=9", "size=m", "uid=" + long, "ro,exec", "dev"}},
	} {
		for _, s := range c.good {
			if !c.ok(s) {
				t.Errorf("%s %q is refused", c.what, s)
			}
		}
		for _, s := range c.bad {
			if c.ok(s) {
				t.Errorf("%s %q is taken", c.what, s)
			}
		}
	}
}

func TestStartError(t *testing.T) {
	for text, code := range map[string]int{
		`unable to start container process: error during container init: exec: "nope": executable file not found in $PATH`: 127,
		`unable to start container process: exec: "/nope": stat /nope: no such file or directory`:                          127,
		`exec: "/notexec": permission denied`:               126,
		`exec: "/etc": is a directory`:                      126,
		`unable to start container process: something else`: 125,
		`failed to mount: no such file or dir`:              125,
	} {
		if err := startError("container", fmt.Errorf("%s", text)); ExitCodeOf(err) != code {
			t.Errorf("%q: %v with code %d, want %d", text, err, ExitCodeOf(err), code)
		}
	}
}
