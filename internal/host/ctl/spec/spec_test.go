// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"wherry.example/wherry/api/wherryv1"
)

func TestParsePort(t *testing.T) {
	type pm = wherryv1.PortMapping
	good := map[string]*pm{
		"80":                          {ContainerPort: 80, Count: 1, Protocol: "tcp"},
		"8080:80":                     {HostPort: 8080, ContainerPort: 80, Count: 1, Protocol: "tcp"},
		"53:53/udp":                   {HostPort: 53, ContainerPort: 53, Count: 1, Protocol: "udp"},
		"127.0.0.1:8080:80":           {HostAddress: "127.0.0.1", HostPort: 8080, ContainerPort: 80, Count: 1, Protocol: "tcp"},
		"127.0.0.1::80":               {HostAddress: "127.0.0.1", ContainerPort: 80, Count: 1, Protocol: "tcp"},
		"[::1]:8080:80":               {HostAddress: "::1", HostPort: 8080, ContainerPort: 80, Count: 1, Protocol: "tcp"},
		"[2001:db8::2]::53/udp":       {HostAddress: "2001:db8::2", ContainerPort: 53, Count: 1, Protocol: "udp"},
		"8000-8010:9000-9010":         {HostPort: 8000, ContainerPort: 9000, Count: 11, Protocol: "tcp"},
		"9000-9010":                   {ContainerPort: 9000, Count: 11, Protocol: "tcp"},
		"0.0.0.0:1-65535:1-65535/udp": {HostAddress: "0.0.0.0", HostPort: 1, ContainerPort: 1, Count: 65535, Protocol: "udp"},
	}
	for text, want := range good {
		got, err := ParsePort(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
			t.Errorf("%q: %s", text, d)
		}
	}
	for _, text := range []string{"", "0", "65536", "a", "80:", "80/sctp", "80/", "::1:80:80", "[::1]80:80", "example.org:80:80",
		"8000-8010:80", "8010-8000:80-90", "1:2:3:4", "-80", "80-", "127.0.0.1:", "[::1]", "+80", " 80", "[fe80::1%eth0]:1:1"} {
		if got, err := ParsePort(text); err == nil {
			t.Errorf("%q was read as %v", text, got)
		}
	}
}

func FuzzParsePort(f *testing.F) {
	for _, s := range []string{"[::1]:8000-8010:9000-9010/udp", "80", "127.0.0.1::80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePort(s)
		if err != nil {
			return
		}
		if p.ContainerPort == 0 || p.Count == 0 || p.ContainerPort+p.Count-1 > 65535 || (p.HostPort != 0 && p.HostPort+p.Count-1 > 65535) {
			t.Errorf("%q: %v is out of range", s, p)
		}
	})
}

func TestParseMounts(t *testing.T) {
	type m = wherryv1.Mount
	parsers := map[string]func(string) (*wherryv1.Mount, error){"-v": ParseVolume, "--mount": ParseMount, "--tmpfs": ParseTmpfs}
	good := map[string]*m{
		"-v data:/data":                                                   {Source: "data", Target: "/data"},
		"-v data:/data/:ro":                                               {Source: "data", Target: "/data", ReadOnly: true},
		"-v data:/data:ro,nocopy,z":                                       {Source: "data", Target: "/data", ReadOnly: true, NoCopy: true},
		"-v /anonymous":                                                   {Target: "/anonymous"},
		"-v /srv/www:/www:ro":                                             {Kind: wherryv1.Mount_KIND_BIND, Source: "/srv/www", Target: "/www", ReadOnly: true},
		"--mount source=data,target=/d":                                   {Source: "data", Target: "/d"},
		"--mount type=volume,dst=/d,ro":                                   {Target: "/d", ReadOnly: true},
		"--mount type=bind,src=/a,dst=/b,readonly=false":                  {Kind: wherryv1.Mount_KIND_BIND, Source: "/a", Target: "/b"},
		`--mount "source=data","target=/a,b",volume-nocopy`:               {Source: "data", Target: "/a,b", NoCopy: true},
		"--mount type=tmpfs,destination=/t,tmpfs-size=1m,tmpfs-mode=1770": {Kind: wherryv1.Mount_KIND_TMPFS, Target: "/t", TmpfsBytes: 1 << 20, TmpfsMode: 0o1770},
		"--tmpfs /run":                                                    {Kind: wherryv1.Mount_KIND_TMPFS, Target: "/run"},
		"--tmpfs /run:rw,noexec,size=64k,mode=755":                        {Kind: wherryv1.Mount_KIND_TMPFS, Target: "/run", TmpfsBytes: 64 << 10, TmpfsMode: 0o755, TmpfsOptions: []string{"noexec"}},
	}
	for text, want := range good {
		flag, value, _ := strings.Cut(text, " ")
		got, err := parsers[flag](value)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
			t.Errorf("%s: %s", text, d)
		}
	}
	bad := map[string]string{
		"-v ./here:/x":                          "path of this computer",
		"-v ~/x:/x":                             "path of this computer",
		"-v a/b:/x":                             "path of this computer",
		"-v :/x":                                "empty",
		"-v data:x":                             "absolute",
		"-v data:/":                             "below /",
		"-v data:/x:rx":                         "unknown option",
		"-v a:/b:ro:z":                          "too many colons",
		"-v -x:/x":                              "cannot name a volume",
		"--mount type=npipe,target=/x":          "unknown type",
		"--mount source=a":                      "absolute",
		"--mount type=bind,source=x,target=/x":  "absolute path of the machine",
		"--mount target=/x,tmpfs-size=1m":       "type=tmpfs",
		"--mount type=tmpfs,source=a,target=/x": "no source",
		"--mount target=/x,ro=perhaps":          "true or false",
		"--mount type=tmpfs,target=/x,tmpfs-mode=99": "octal",
		"--tmpfs run":            "absolute",
		"--tmpfs /run:size=much": "size",
		"--tmpfs /run:fun":       "unknown option",
	}
	for text, want := range bad {
		flag, value, _ := strings.Cut(text, " ")
		if got, err := parsers[flag](value); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v %v, want an error with %q", text, got, err, want)
		}
	}
}

func parse(t *testing.T, args ...string) (*wherryv1.ContainerSpec, error) {
	t.Helper()
	var f Flags
	s := pflag.NewFlagSet("run", pflag.ContinueOnError)
	s.SetInterspersed(false)
	f.Register(s)
	if err := s.Parse(args); err != nil {
		return nil, err
	}
	rest := s.Args()
	return f.Spec(rest[0], rest[1:])
}

// TestFlags reads whole command lines.
func TestFlags(t *testing.T) {
	t.Setenv("FROM_HERE", "yes")
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte("\ufeff# comment\n\nA=from file\nFROM_HERE\nNOT_SET_ANYWHERE\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	type spec = wherryv1.ContainerSpec
	base := func(change func(*spec)) *spec {
		s := &spec{Image: "nginx", Restart: &wherryv1.RestartPolicy{}, Resources: &wherryv1.Resources{}}
		change(s)
		return s
	}
	cases := []struct {
		args string
		want *spec
	}{
		{"nginx -p 80", base(func(s *spec) { s.Command = []string{"-p", "80"} })},
		{"-it --rm --name x -u 1:2 -w /w nginx sh", base(func(s *spec) {
			s.Tty, s.Stdin, s.AutoRemove, s.Name, s.User, s.Workdir, s.Command = true, true, true, "x", "1:2", "/w", []string{"sh"}
		})},
		{"--env-file " + file + " -e A=flag -e B= nginx", base(func(s *spec) {
			s.Env = []string{"A=from file", "FROM_HERE=yes", "A=flag", "B="}
		})},
		{"--entrypoint= -l a -l b=c=d nginx", base(func(s *spec) {
			s.ClearEntrypoint, s.Labels = true, map[string]string{"a": "", "b": "c=d"}
		})},
		{"--entrypoint /bin/x --restart on-failure:3 --stop-timeout 0 --stop-signal INT nginx", base(func(s *spec) {
			s.Entrypoint, s.StopSignal, s.StopTimeout = []string{"/bin/x"}, "INT", durationpb.New(0)
			s.Restart = &wherryv1.RestartPolicy{Kind: wherryv1.RestartPolicy_KIND_ON_FAILURE, MaxRetries: 3}
		})},
		{"--memory 64m --memory-swap -1 --cpus 1.5 --cpuset-cpus 0-1 -c 512 --pids-limit 100 nginx", base(func(s *spec) {
			s.Resources = &wherryv1.Resources{MemoryBytes: 64 << 20, MemorySwapBytes: 1 << 60, NanoCpus: 1_500_000_000, Cpuset: "0-1", CpuShares: 512, Pids: 100}
		})},
		{"--network front --network-alias web --ip 172.20.0.9 --network name=back,alias=b nginx", base(func(s *spec) {
			s.Networks = []*wherryv1.NetworkAttachment{{Network: "front", Aliases: []string{"web"}, Ipv4: "172.20.0.9"}, {Network: "back", Aliases: []string{"b"}}}
		})},
		{"--network host nginx", base(func(s *spec) { s.NetworkMode = wherryv1.NetworkMode_NETWORK_MODE_HOST })},
		{"--add-host db:10.0.0.1 --add-host six=[::1] --dns 9.9.9.9 --hostname h nginx", base(func(s *spec) {
			s.ExtraHosts, s.Dns, s.Hostname = []string{"db:10.0.0.1", "six:::1"}, []string{"9.9.9.9"}, "h"
		})},
		{"--health-cmd true --health-interval 5s --health-retries 2 nginx", base(func(s *spec) {
			s.Health = &wherryv1.HealthCheck{Test: []string{"CMD-SHELL", "true"}, Interval: durationpb.New(5 * time.Second), Retries: 2}
		})},
		{"--no-healthcheck nginx", base(func(s *spec) { s.Health = &wherryv1.HealthCheck{Test: []string{"NONE"}} })},
		{"--ulimit nofile=1024:2048 --ulimit core=unlimited --sysctl net.core.somaxconn=9 --cap-add NET_ADMIN --cap-drop ALL nginx", base(func(s *spec) {
			s.Ulimits = []*wherryv1.Ulimit{{Name: "nofile", Soft: 1024, Hard: 2048}, {Name: "core", Soft: -1, Hard: -1}}
			s.Sysctls, s.CapAdd, s.CapDrop = map[string]string{"net.core.somaxconn": "9"}, []string{"NET_ADMIN"}, []string{"ALL"}
		})},
		{"--security-opt no-new-privileges --shm-size 1g --log-opt max-size=1m --log-opt max-file=5 --oom-score-adj 0 nginx", base(func(s *spec) {
			s.NoNewPrivileges, s.ShmBytes, s.Log, s.OomScoreAdjSet = true, 1<<30, &wherryv1.LogOptions{MaxBytes: 1 << 20, MaxFiles: 5}, true
		})},
	}
	for _, c := range cases {
		got, err := parse(t, strings.Fields(c.args)...)
		if err != nil {
			t.Errorf("%s: %v", c.args, err)
		} else if d := cmp.Diff(c.want, got, protocmp.Transform()); d != "" {
			t.Errorf("%s: %s", c.args, d)
		}
	}
}

func TestFlagErrors(t *testing.T) {
	for args, want := range map[string]string{
		"--rm --restart always x":             "exclude each other",
		"--restart sometimes x":               "want no, on-failure",
		"--restart always:3 x":                "only on-failure",
		"--memory lots x":                     "want a size",
		"--memory -1 x":                       "want a size",
		"--cpus 1/2 x":                        "--cpus",
		"--ulimit nofile x":                   "name=soft",
		"--ulimit fun=1 x":                    "no limit called",
		"--ulimit nofile=2:1 x":               "above the hard one",
		"--sysctl novalue x":                  "want name=value",
		"--env-file /nonexistent x":           "--env-file",
		"-e =x x":                             "NAME=value",
		"--network host --network a x":        "stand alone",
		"--network container:web x":           "not supported",
		"--ip 1.2.3.4 x":                      "need a --network",
		"--add-host x x":                      "name:address",
		"--security-opt seccomp=unconfined x": "only no-new-privileges",
		"--log-opt compress=true x":           "max-size and max-file",
		"-v a:/x -v b:/x x":                   "two mounts at /x",
		"--no-healthcheck --health-cmd a x":   "exclude each other",
		"--health-interval -1s x":             "negative",
		"--oom-score-adj 2000 x":              "-1000",
	} {
		if got, err := parse(t, strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v %v, want an error with %q", args, got, err, want)
		}
	}
}

func TestFormatPorts(t *testing.T) {
	got := FormatPorts([]*wherryv1.PortMapping{
		{HostPort: 8080, ContainerPort: 80}, {HostAddress: "::1", HostPort: 5000, ContainerPort: 6000, Count: 3, Protocol: "udp"},
	})
	if want := "*:8080->80/tcp, [::1]:5000-5002->6000-6002/udp"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
