// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"wherry.example/wherry/api/wherryv1"
)

func TestDecideRestart(t *testing.T) {
	policy := func(k wherryv1.RestartPolicy_Kind, n uint32) *wherryv1.RestartPolicy {
		return &wherryv1.RestartPolicy{Kind: k, MaxRetries: n}
	}
	const (
		no      = wherryv1.RestartPolicy_KIND_NO
		failure = wherryv1.RestartPolicy_KIND_ON_FAILURE
		always  = wherryv1.RestartPolicy_KIND_ALWAYS
		unless  = wherryv1.RestartPolicy_KIND_UNLESS_STOPPED
	)
	for _, tt := range []struct {
		name string
		q    restartQuestion
		want restartAnswer
	}{
		{"no policy", restartQuestion{WantRunning: true, ExitCode: 1}, restartAnswer{false, 100 * time.Millisecond, 1}},
		{"policy no", restartQuestion{Policy: policy(no, 0), WantRunning: true}, restartAnswer{false, 100 * time.Millisecond, 1}},
		{"always after success", restartQuestion{Policy: policy(always, 0), WantRunning: true}, restartAnswer{true, 100 * time.Millisecond, 1}},
		{"always, stopped by hand", restartQuestion{Policy: policy(always, 0)}, restartAnswer{false, 100 * time.Millisecond, 1}},
		{"unless stopped, fourth time", restartQuestion{Policy: policy(unless, 0), WantRunning: true, Failures: 3}, restartAnswer{true, 800 * time.Millisecond, 4}},
		{"pause ends at a minute", restartQuestion{Policy: policy(always, 0), WantRunning: true, Failures: 4_000_000_000}, restartAnswer{true, time.Minute, 4_000_000_001}},
		{"a good run resets the pause", restartQuestion{Policy: policy(always, 0), WantRunning: true, Failures: 9, Ran: 11 * time.Second}, restartAnswer{true, 100 * time.Millisecond, 1}},
		{"failure after success", restartQuestion{Policy: policy(failure, 0), WantRunning: true}, restartAnswer{false, 100 * time.Millisecond, 1}},
		{"failure without bound", restartQuestion{Policy: policy(failure, 0), WantRunning: true, ExitCode: 1, Failures: 50}, restartAnswer{true, time.Minute, 51}},
		{"failure within its bound", restartQuestion{Policy: policy(failure, 2), WantRunning: true, ExitCode: 1, Failures: 1}, restartAnswer{true, 200 * time.Millisecond, 2}},
		{"failure at its bound", restartQuestion{Policy: policy(failure, 2), WantRunning: true, ExitCode: 1, Failures: 2}, restartAnswer{false, 400 * time.Millisecond, 3}},
		{"a good run gives no new attempts", restartQuestion{Policy: policy(failure, 2), WantRunning: true, ExitCode: 1, Failures: 2, Ran: time.Hour}, restartAnswer{false, 100 * time.Millisecond, 3}},
		{"failure of the start itself", restartQuestion{Policy: policy(failure, 0), WantRunning: true, NeverRan: true}, restartAnswer{true, 100 * time.Millisecond, 1}},
	} {
		if got := decideRestart(tt.q); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

func TestComesBack(t *testing.T) {
	rec := func(k wherryv1.RestartPolicy_Kind, want, started bool) record {
		s := &wherryv1.ContainerState{}
		if started {
			s.StartedAt = timestamppb.Now()
		}
		return record{Spec: &wherryv1.ContainerSpec{Restart: &wherryv1.RestartPolicy{Kind: k}}, State: s, WantRunning: want}
	}
	for _, tt := range []struct {
		name     string
		r        record
		rebooted bool
		want     bool
	}{
		{"a start that was cut short", rec(wherryv1.RestartPolicy_KIND_NO, true, false), false, true},
		{"always, stopped by hand, same boot", rec(wherryv1.RestartPolicy_KIND_ALWAYS, false, true), false, false},
		{"always, stopped by hand, next boot", rec(wherryv1.RestartPolicy_KIND_ALWAYS, false, true), true, true},
		{"always, never started", rec(wherryv1.RestartPolicy_KIND_ALWAYS, false, false), true, false},
		{"unless stopped, stopped by hand, next boot", rec(wherryv1.RestartPolicy_KIND_UNLESS_STOPPED, false, true), true, false},
		{"unless stopped, next boot", rec(wherryv1.RestartPolicy_KIND_UNLESS_STOPPED, true, true), true, true},
		{"no policy, ended", rec(wherryv1.RestartPolicy_KIND_NO, false, true), true, false},
	} {
		if got := comesBack(tt.r, tt.rebooted); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestEffectiveSpec(t *testing.T) {
	img := ocispec.ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"cmd"}, Env: []string{"A=1", "PATH=/image", "junk"}, WorkingDir: "work/",
		User: "ann", Labels: map[string]string{"a": "image", "b": "image"}, Volumes: map[string]struct{}{"/v": {}, "/w/": {}}, StopSignal: "SIGQUIT"}
	id := strings.Repeat("ab", 32)
	for _, tt := range []struct {
		name  string
		asked *wherryv1.ContainerSpec
		check func(*wherryv1.ContainerSpec) (got, want any)
	}{
		{"image's command", &wherryv1.ContainerSpec{}, func(s *wherryv1.ContainerSpec) (any, any) {
			return append(s.Entrypoint, s.Command...), []string{"/entry", "cmd"}
		}},
		{"own command", &wherryv1.ContainerSpec{Command: []string{"x"}}, func(s *wherryv1.ContainerSpec) (any, any) {
			return append(s.Entrypoint, s.Command...), []string{"/entry", "x"}
		}},
		{"own entrypoint drops the image's command", &wherryv1.ContainerSpec{Entrypoint: []string{"e"}}, func(s *wherryv1.ContainerSpec) (any, any) {
			return append(s.Entrypoint, s.Command...), []string{"e"}
		}},
		{"no entrypoint", &wherryv1.ContainerSpec{ClearEntrypoint: true, Command: []string{"x"}}, func(s *wherryv1.ContainerSpec) (any, any) {
			return append(s.Entrypoint, s.Command...), []string{"x"}
		}},
		{"environment", &wherryv1.ContainerSpec{Env: []string{"B=2", "A"}}, func(s *wherryv1.ContainerSpec) (any, any) { return s.Env, []string{"PATH=/image", "B=2"} }},
		{"terminal", &wherryv1.ContainerSpec{Tty: true}, func(s *wherryv1.ContainerSpec) (any, any) { return s.Env, []string{"PATH=/image", "TERM=xterm", "A=1"} }},
		{"labels", &wherryv1.ContainerSpec{Labels: map[string]string{"b": "mine"}}, func(s *wherryv1.ContainerSpec) (any, any) {
			return s.Labels, map[string]string{"a": "image", "b": "mine"}
		}},
		{"directory, user, signal, host name", &wherryv1.ContainerSpec{}, func(s *wherryv1.ContainerSpec) (any, any) {
			return []string{s.Workdir, s.User, s.StopSignal, s.Hostname}, []string{"/work", "ann", "SIGQUIT", "abababababab"}
		}},
		{"no host name on the machine's network", &wherryv1.ContainerSpec{NetworkMode: wherryv1.NetworkMode_NETWORK_MODE_HOST},
			func(s *wherryv1.ContainerSpec) (any, any) { return s.Hostname, "" }},
		{"volumes of the image", &wherryv1.ContainerSpec{Mounts: []*wherryv1.Mount{{Target: "/v/", Source: "mine"}}}, func(s *wherryv1.ContainerSpec) (any, any) {
			var got []string
			for _, m := range s.Mounts {
				got = append(got, m.Source+":"+m.Target)
			}
			return got, []string{"mine:/v", ":/w"}
		}},
	} {
		s, err := effectiveSpec(tt.asked, id, "n", img, nil)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		got, want := tt.check(s)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
	if _, err := effectiveSpec(&wherryv1.ContainerSpec{}, id, "n", ocispec.ImageConfig{}, nil); ExitCodeOf(err) != 127 {
		t.Errorf("no command at all: %v", err)
	}
	if _, err := effectiveSpec(&wherryv1.ContainerSpec{}, id, "n", ocispec.ImageConfig{Cmd: []string{"x"}, Volumes: map[string]struct{}{"/proc/x": {}}}, nil); KindOf(err) != KindInvalid {
		t.Errorf("an image with a volume in /proc: %v", err)
	}
}

func TestEffectiveHealth(t *testing.T) {
	image := &wherryv1.HealthCheck{Test: []string{"CMD", "a"}, Interval: durationpb.New(time.Second), Retries: 5}
	for _, tt := range []struct {
		name         string
		asked, image *wherryv1.HealthCheck
		want         *wherryv1.HealthCheck
	}{
		{"none", nil, nil, nil},
		{"of the image", nil, image, &wherryv1.HealthCheck{Test: []string{"CMD", "a"}, Interval: durationpb.New(time.Second), Timeout: durationpb.New(30 * time.Second), Retries: 5}},
		{"switched off", &wherryv1.HealthCheck{Test: []string{"NONE"}}, image, nil},
		{"other test", &wherryv1.HealthCheck{Test: []string{"CMD-SHELL", "b"}}, image,
			&wherryv1.HealthCheck{Test: []string{"CMD-SHELL", "b"}, Interval: durationpb.New(time.Second), Timeout: durationpb.New(30 * time.Second), Retries: 5}},
		{"nonsense of the image", nil, &wherryv1.HealthCheck{Test: []string{"WHAT"}}, nil},
	} {
		if d := cmp.Diff(tt.want, effectiveHealth(tt.asked, tt.image), protocmp.Transform()); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
}

func TestJudgeHealth(t *testing.T) {
	const (
		starting  = wherryv1.HealthState_HEALTH_STATE_STARTING
		healthy   = wherryv1.HealthState_HEALTH_STATE_HEALTHY
		unhealthy = wherryv1.HealthState_HEALTH_STATE_UNHEALTHY
	)
	h := &wherryv1.HealthCheck{Retries: 2, StartPeriod: durationpb.New(time.Minute)}
	for _, tt := range []struct {
		before   wherryv1.HealthState
		failures uint32
		code     int32
		age      time.Duration
		want     wherryv1.HealthState
		count    uint32
	}{
		{starting, 0, 0, 0, healthy, 0},
		{starting, 0, 1, time.Second, starting, 0},
		{starting, 0, 1, time.Hour, starting, 1},
		{starting, 1, 1, time.Hour, unhealthy, 2},
		{healthy, 0, 1, time.Second, healthy, 1},
		{healthy, 1, -1, time.Second, unhealthy, 2},
		{unhealthy, 5, 0, time.Hour, healthy, 0},
	} {
		if got, n := judgeHealth(tt.before, tt.failures, h, tt.code, tt.age); got != tt.want || n != tt.count {
			t.Errorf("%+v: %v, %d", tt, got, n)
		}
	}
}

func TestOCISpec(t *testing.T) {
	s := &wherryv1.ContainerSpec{Hostname: "box", Entrypoint: []string{"/e"}, Command: []string{"c"}, Env: []string{"A=1"}, Workdir: "/w", ReadOnly: true,
		Resources: &wherryv1.Resources{MemoryBytes: 64 << 20, NanoCpus: 1.5e9, Pids: 50, CpuShares: 512}, ShmBytes: 1 << 20,
		Ulimits: []*wherryv1.Ulimit{{Name: "nofile", Soft: 10, Hard: 20}, {Name: "core", Soft: -1, Hard: -1}}, Sysctls: map[string]string{"net/core/somaxconn": "9"}}
	b := bundle{ID: "id", RootFS: "/r", Files: "/f", CgroupPath: "/wherry/id", User: specs.User{UID: 5}, Home: "/home/x", Mounts: []boundMount{
		{&wherryv1.Mount{Target: "/a/b", Kind: wherryv1.Mount_KIND_VOLUME}, "/vol/ab"},
		{&wherryv1.Mount{Target: "/a", Kind: wherryv1.Mount_KIND_TMPFS, TmpfsBytes: 99, TmpfsOptions: []string{"exec"}}, ""},
		{&wherryv1.Mount{Target: "/host", Kind: wherryv1.Mount_KIND_BIND, ReadOnly: true}, "/opt"},
		{&wherryv1.Mount{Target: "/etc/hosts", Kind: wherryv1.Mount_KIND_VOLUME}, "/vol/hosts"},
	}}
	o, err := ociSpec(s, b)
	if err != nil {
		t.Fatal(err)
	}
	var mounts []string
	for _, m := range o.Mounts[6:] {
		mounts = append(mounts, m.Destination+" "+m.Type+" "+m.Source+" "+strings.Join(m.Options, ","))
	}
	want := []string{
		"/dev/shm tmpfs shm nosuid,noexec,nodev,mode=1777,size=1048576",
		"/etc/hostname bind /f/hostname rbind,rprivate,ro",
		"/etc/resolv.conf bind /f/resolv.conf rbind,rprivate,ro",
		"/a tmpfs tmpfs nosuid,nodev,exec,size=99",
		"/host bind /opt rbind,rprivate,rnosuid,rnodev,rro",
		"/a/b bind /vol/ab rbind,rprivate",
		"/etc/hosts bind /vol/hosts rbind,rprivate",
	}
	if d := cmp.Diff(want, mounts); d != "" {
		t.Errorf("mounts (-want +got):\n%s", d)
	}
	p := o.Process
	if d := cmp.Diff([]string{"A=1", "HOME=/home/x", "HOSTNAME=box"}, p.Env); d != "" {
		t.Errorf("environment (-want +got):\n%s", d)
	}
	if len(p.Capabilities.Effective) != 0 || len(p.Capabilities.Bounding) != 14 || len(p.Capabilities.Ambient)+len(p.Capabilities.Inheritable) != 0 {
		t.Errorf("capabilities of a plain user: %+v", p.Capabilities)
	}
	if d := cmp.Diff([]specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 10, Hard: 20}, {Type: "RLIMIT_CORE", Soft: 1<<64 - 1, Hard: 1<<64 - 1}}, p.Rlimits); d != "" {
		t.Errorf("limits (-want +got):\n%s", d)
	}
	r := o.Linux.Resources
	if *r.Memory.Limit != 64<<20 || *r.Memory.Swap != 128<<20 || *r.CPU.Quota != 150_000 || *r.CPU.Shares != 512 || *r.Pids.Limit != 50 {
		t.Errorf("resources: %+v %+v", r.Memory, r.CPU)
	}
	if !o.Root.Readonly || o.Linux.Sysctl["net.core.somaxconn"] != "9" || len(o.Linux.Namespaces) != 6 {
		t.Errorf("root, sysctls or namespaces: %+v %v %v", o.Root, o.Linux.Sysctl, o.Linux.Namespaces)
	}
	s.NetworkMode = wherryv1.NetworkMode_NETWORK_MODE_HOST
	if o, err = ociSpec(s, b); err != nil || len(o.Linux.Namespaces) != 5 || o.Linux.Sysctl["net.ipv4.ping_group_range"] != "" {
		t.Errorf("on the machine's network: %v %v %v", o.Linux.Namespaces, o.Linux.Sysctl, err)
	}
}

// TestForbiddenIoctl judges the rules as the kernel does: by the lower 32 bits.
func TestForbiddenIoctl(t *testing.T) {
	p, err := seccompProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}, Linux: &specs.Linux{}})
	if err != nil {
		t.Fatal(err)
	}
	allowed := func(cmd uint64) bool {
		return slices.ContainsFunc(p.Syscalls, func(c specs.LinuxSyscall) bool {
			if c.Action != specs.ActAllow || !slices.Contains(c.Names, "ioctl") {
				return false
			}
			for _, a := range c.Args {
				if a.Index != 1 || a.Op != specs.OpMaskedEqual || cmd&a.Value != a.ValueTwo {
					return false
				}
			}
			return true
		})
	}
	for cmd, want := range map[uint64]bool{fsSetXattr: false, 1<<32 | fsSetXattr: false, 0xffffffff<<32 | fsSetXattr: false,
		fsSetXattr ^ 1<<31: false, // the same name with another argument
		0x801c581f:         true, 0x5401: true, 0: true, fsSetXattr ^ 1: true, fsSetXattr ^ 1<<15: true, 0xffffffff: true} {
		if got := allowed(cmd); got != want {
			t.Errorf("ioctl %#x allowed: %v", cmd, got)
		}
	}
	if runtime.GOARCH == "amd64" && !slices.Contains(p.Architectures, specs.ArchX86) {
		t.Error("the profile says nothing of 32-bit programs")
	}
	if slices.Contains(p.Architectures, specs.ArchX32) {
		t.Error("the profile has rules for an ABI that the kernel does not have")
	}
}

func TestCapabilities(t *testing.T) {
	for _, tt := range []struct {
		add, drop []string
		want      int
		has       string
	}{
		{nil, nil, 14, "CAP_CHOWN"}, {[]string{"net_admin"}, nil, 15, "CAP_NET_ADMIN"}, {nil, []string{"ALL"}, 0, ""},
		{[]string{"CHOWN"}, []string{"all"}, 1, "CAP_CHOWN"}, {[]string{"ALL"}, nil, 41, "CAP_SYS_ADMIN"}, {[]string{"ALL"}, []string{"SYS_ADMIN"}, 40, "CAP_BPF"},
	} {
		got, err := capabilities(tt.add, tt.drop)
		if err != nil || len(got) != tt.want || tt.has != "" && !slices.Contains(got, tt.has) {
			t.Errorf("add %v drop %v: %v, %v", tt.add, tt.drop, got, err)
		}
	}
	if _, err := capabilities([]string{"FLY"}, nil); KindOf(err) != KindInvalid {
		t.Errorf("an unknown capability: %v", err)
	}
}

func TestEtcFiles(t *testing.T) {
	s := &wherryv1.ContainerSpec{Hostname: "box", Domainname: "example.org", ExtraHosts: []string{"a:1.2.3.4", "b=[fd00::1]"}}
	net := NetworkResult{Endpoints: []*wherryv1.Endpoint{{Ipv4: "10.0.0.2/24", Ipv6: "fd00::2/64"}}, Nameservers: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Search: []string{"lan"}}
	got := etcContent(s, net)
	for _, want := range []string{"1.2.3.4\ta\n", "fd00::1\tb\n", "10.0.0.2\tbox.example.org box\n", "fd00::2\tbox.example.org box\n"} {
		if !strings.Contains(string(got["hosts"]), want) {
			t.Errorf("%q is not in hosts:\n%s", want, got["hosts"])
		}
	}
	if string(got["resolv.conf"]) != "search lan\nnameserver 10.0.0.1\n" {
		t.Errorf("resolv.conf: %q", got["resolv.conf"])
	}
	s.Dns, s.DnsSearch = []string{"9.9.9.9"}, []string{"."}
	if r := resolvConf(s, net); string(r) != "nameserver 9.9.9.9\n" {
		t.Errorf("resolv.conf with own servers: %q", r)
	}
}

func TestResolveUser(t *testing.T) {
	passwd := []byte("root:x:0:0::/root:\nann:x:1000:100::/home/ann:\n")
	group := []byte("root:x:0:\nusers:x:100:\nboats:x:2000:ann,bob\n")
	for spec, want := range map[string]specs.User{
		"": {UID: 0, GID: 0, AdditionalGids: []uint32{0}}, "ann": {UID: 1000, GID: 100, AdditionalGids: []uint32{100, 2000}},
		"1000": {UID: 1000, GID: 100, AdditionalGids: []uint32{100, 2000}}, "42": {UID: 42, AdditionalGids: []uint32{0}},
		"42:boats": {UID: 42, GID: 2000, AdditionalGids: []uint32{2000}}, "ann:7": {UID: 1000, GID: 7, AdditionalGids: []uint32{7}},
	} {
		got, _, err := resolveUser(spec, nil, passwd, group)
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("%q: %+v, %v, want %+v", spec, got, err, want)
		}
	}
	for _, spec := range []string{"bob", "ann:nope", "-1", "4294967296"} {
		if u, _, err := resolveUser(spec, nil, passwd, group); KindOf(err) != KindInvalid {
			t.Errorf("%q: %+v, %v", spec, u, err)
		}
	}
}

func TestRecordSurvives(t *testing.T) {
	dir := t.TempDir()
	r := record{ID: "ab", Name: "n", CreatedAt: time.Unix(5, 6).UTC(), Stage: stageReady, WantRunning: true, Failures: 3, BootID: "b",
		Spec:      &wherryv1.ContainerSpec{Image: "i", Labels: map[string]string{"x": "y"}},
		Effective: &wherryv1.ContainerSpec{Image: "i", Workdir: "/"}, State: &wherryv1.ContainerState{ExitCode: 7, StartedAt: timestamppb.New(time.Unix(9, 0))},
		Ports: []*wherryv1.PortMapping{{HostPort: 80}}, Mounts: []*wherryv1.Mount{{Target: "/t"}}, Anonymous: []string{"v"}, Image: imageFacts{Name: "i", Volumes: []string{"/v"}}}
	for _, id := range []string{"ab", "torn", "empty", "other"} {
		if err := os.Mkdir(filepath.Join(dir, id), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"ab", "other"} {
		if err := r.save(filepath.Join(dir, id)); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(filepath.Join(dir, "torn", recordName), []byte(`{"version":1,`), 0o600)
	got, strays, err := loadRecords(dir)
	if err != nil || len(got) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	if d := cmp.Diff(&r, got[0], protocmp.Transform(), cmp.AllowUnexported(record{})); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if len(strays) != 3 || !absent(strays["empty"]) || absent(strays["torn"]) || absent(strays["other"]) {
		t.Errorf("strays: %v", strays)
	}
	b, _ := r.encode()
	var keys map[string]any
	if json.Unmarshal(b, &keys); keys["version"] != float64(1) {
		t.Errorf("the record has no version: %s", b)
	}
}

func TestFindContainer(t *testing.T) {
	var tab table
	add := func(id, name string, system bool) {
		if err := tab.reserve(nameKey{system, name}, id); err != nil {
			t.Fatal(err)
		}
		tab.add(newContainer(record{ID: id, Name: name, System: system}, ""))
	}
	add("aabb", "web", false)
	add("aacc", "abc", false)
	add("ddee", "web", true)
	for _, tt := range []struct {
		ref    string
		system bool
		want   string
		kind   Kind
	}{
		{"web", false, "aabb", 0}, {"/web", false, "aabb", 0}, {"aac", false, "aacc", 0}, {"aabb", false, "aabb", 0}, {"abc", false, "aacc", 0},
		{"aa", false, "", KindInvalid}, {"zz", false, "", KindNotFound}, {"", false, "", KindInvalid}, {"dd", false, "", KindNotFound},
		{"ddee", false, "", KindNotFound}, {"web", true, "ddee", 0}, {strings.Repeat("x", 300), false, "", KindInvalid},
	} {
		c, err := tab.find(tt.ref, tt.system)
		if tt.want != "" && (err != nil || c.id != tt.want) || tt.want == "" && KindOf(err) != tt.kind {
			t.Errorf("%q: %v, %v", tt.ref, c, err)
		}
	}
	if _, err := tab.reserveName("web", false, "x"); KindOf(err) != KindConflict {
		t.Errorf("a taken name: %v", err)
	}
	for _, bad := range []string{"a", "-ab", "a/b", "a b", strings.Repeat("a", 200)} {
		if _, err := tab.reserveName(bad, false, "x"); KindOf(err) != KindInvalid {
			t.Errorf("name %q: %v", bad, err)
		}
	}
	if n, err := tab.reserveName("", false, "x"); err != nil || !namePattern.MatchString(n) {
		t.Errorf("a made-up name: %q, %v", n, err)
	}
}
