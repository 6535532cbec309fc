// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package spec turns docker's flags of run and create into a ContainerSpec.
//
// The words are docker's, so that what people know by heart works; where a
// machine cannot do what docker could (a path of this computer, an option
// that does not exist here) the error says so and what to do instead. Nothing
// here talks to a machine; the only things read are the environment and the
// files that --env-file and --label-file name.
package spec

import (
	"encoding/csv"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/durationpb"
	"wherry.example/wherry/api/wherryv1"
)

// Flags are docker's flags that say what a container is.
type Flags struct {
	name, workdir, user, hostname, domainname, entrypoint, restart, stopSignal string
	env, envFiles, labels, labelFiles, publish, volumes, mounts, tmpfs         []string
	capAdd, capDrop, ulimits, sysctls, extraHosts, dns, dnsSearch              []string
	networks, aliases, securityOpts, logOpts, groups                           []string
	tty, interactive, readOnly, rm, noHealth                                   bool
	memory, memorySwap, shm, cpus, cpuset, ip, ip6, healthCmd                  string
	cpuShares, pids                                                            int64
	stopTimeout, oomScoreAdj, healthRetries                                    int
	healthInterval, healthTimeout, healthStart                                 time.Duration
	set                                                                        *pflag.FlagSet
}

// Register adds the flags to a command's.
func (f *Flags) Register(s *pflag.FlagSet) {
	f.set = s
	s.StringVar(&f.name, "name", "", "name of the container (default: one is made up)")
	s.BoolVarP(&f.tty, "tty", "t", false, "give it a terminal")
	s.BoolVarP(&f.interactive, "interactive", "i", false, "keep its standard input open")
	s.StringArrayVarP(&f.env, "env", "e", nil, "set an environment variable: NAME=value, or NAME to take yours")
	s.StringArrayVar(&f.envFiles, "env-file", nil, "read environment variables from a file")
	s.StringVarP(&f.workdir, "workdir", "w", "", "working directory inside")
	s.StringVarP(&f.user, "user", "u", "", "user inside: name|uid[:group|gid]")
	s.StringArrayVar(&f.groups, "group-add", nil, "supplementary group of the user")
	s.StringArrayVarP(&f.labels, "label", "l", nil, "set a label: name=value")
	s.StringArrayVar(&f.labelFiles, "label-file", nil, "read labels from a file")
	s.StringVar(&f.entrypoint, "entrypoint", "", `replace the image's entrypoint ("" removes it)`)
	s.BoolVar(&f.rm, "rm", false, "remove the container when it ends")
	s.StringVar(&f.restart, "restart", "no", "when to start it again: no|on-failure[:N]|always|unless-stopped")
	s.StringVar(&f.stopSignal, "stop-signal", "", "signal that asks it to end")
	s.IntVar(&f.stopTimeout, "stop-timeout", 10, "seconds that it has for that")
	f.registerNetwork(s)
	f.registerStorage(s)
	f.registerLimits(s)
	f.registerHealth(s)
}

func (f *Flags) registerNetwork(s *pflag.FlagSet) {
	s.StringVar(&f.hostname, "hostname", "", "host name inside")
	s.StringVar(&f.domainname, "domainname", "", "domain name inside")
	s.StringArrayVarP(&f.publish, "publish", "p", nil, "publish a port: [address:][port:]containerPort[/udp], ranges too")
	s.StringArrayVar(&f.networks, "network", nil, "join a network: NAME|host|none")
	s.StringArrayVar(&f.aliases, "network-alias", nil, "further name on the network")
	s.StringVar(&f.ip, "ip", "", "IPv4 address on the network")
	s.StringVar(&f.ip6, "ip6", "", "IPv6 address on the network")
	s.StringArrayVar(&f.extraHosts, "add-host", nil, "line for /etc/hosts: name:address")
	s.StringArrayVar(&f.dns, "dns", nil, "name server")
	s.StringArrayVar(&f.dnsSearch, "dns-search", nil, "domain to look names up in")
}

func (f *Flags) registerStorage(s *pflag.FlagSet) {
	s.StringArrayVarP(&f.volumes, "volume", "v", nil, "mount a volume or an allowed path of the machine: NAME:/path[:ro]")
	s.StringArrayVar(&f.mounts, "mount", nil, "mount in long form: type=volume|bind|tmpfs,source=…,target=…")
	s.StringArrayVar(&f.tmpfs, "tmpfs", nil, "mount a directory in memory: /path[:size=64m,mode=1777]")
	s.BoolVar(&f.readOnly, "read-only", false, "make the root file system read-only")
	s.StringVar(&f.shm, "shm-size", "", "size of /dev/shm (default 64m)")
	s.StringArrayVar(&f.logOpts, "log-opt", nil, "keep logs: max-size=10m, max-file=3")
}

func (f *Flags) registerLimits(s *pflag.FlagSet) {
	s.StringVar(&f.memory, "memory", "", "memory limit: 512m")
	s.StringVar(&f.memorySwap, "memory-swap", "", "limit of memory and swap together; -1: none")
	s.StringVar(&f.cpus, "cpus", "", "CPUs: 1.5")
	s.StringVar(&f.cpuset, "cpuset-cpus", "", "CPUs to run on: 0-2,4")
	s.Int64VarP(&f.cpuShares, "cpu-shares", "c", 0, "share of the CPU against others (default 1024)")
	s.Int64Var(&f.pids, "pids-limit", 0, "number of processes; -1: no limit")
	s.StringArrayVar(&f.ulimits, "ulimit", nil, "limit of each process: nofile=1024[:2048]")
	s.StringArrayVar(&f.sysctls, "sysctl", nil, "kernel setting of its own: net.core.somaxconn=1024")
	s.StringArrayVar(&f.capAdd, "cap-add", nil, "add a capability")
	s.StringArrayVar(&f.capDrop, "cap-drop", nil, "drop a capability (ALL: every one)")
	s.StringArrayVar(&f.securityOpts, "security-opt", nil, "no-new-privileges")
	s.IntVar(&f.oomScoreAdj, "oom-score-adj", 0, "preference when memory runs out: -1000…1000")
}

func (f *Flags) registerHealth(s *pflag.FlagSet) {
	s.StringVar(&f.healthCmd, "health-cmd", "", "command that tells whether it is healthy")
	s.DurationVar(&f.healthInterval, "health-interval", 0, "time between checks (default 30s)")
	s.DurationVar(&f.healthTimeout, "health-timeout", 0, "time for one check (default 30s)")
	s.DurationVar(&f.healthStart, "health-start-period", 0, "time to start in which failures do not count")
	s.IntVar(&f.healthRetries, "health-retries", 0, "failures until it is unhealthy (default 3)")
	s.BoolVar(&f.noHealth, "no-healthcheck", false, "no check, not the image's either")
}

// Spec returns the container that the flags describe.
func (f *Flags) Spec(image string, command []string) (*wherryv1.ContainerSpec, error) {
	s := &wherryv1.ContainerSpec{
		Name: f.name, Image: image, Command: command, Workdir: f.workdir, User: f.user,
		Hostname: f.hostname, Domainname: f.domainname, ExtraHosts: nil, Tty: f.tty, Stdin: f.interactive,
		ReadOnly: f.readOnly, AutoRemove: f.rm, CapAdd: f.capAdd, CapDrop: f.capDrop, GroupAdd: f.groups,
		StopSignal: f.stopSignal, Dns: f.dns, DnsSearch: f.dnsSearch,
	}
	for _, part := range []func(*wherryv1.ContainerSpec) error{
		f.entry, f.environment, f.labelled, f.ports, f.storage, f.joined, f.limits, f.process, f.health, f.logging,
	} {
		if err := part(s); err != nil {
			return nil, err
		}
	}
	if s.AutoRemove && s.Restart.GetKind() != wherryv1.RestartPolicy_KIND_NO {
		return nil, errors.New("--rm and --restart exclude each other")
	}
	return s, nil
}

func (f *Flags) changed(name string) bool { return f.set != nil && f.set.Changed(name) }

func (f *Flags) entry(s *wherryv1.ContainerSpec) error {
	if f.changed("entrypoint") {
		if f.entrypoint == "" {
			s.ClearEntrypoint = true
		} else {
			s.Entrypoint = []string{f.entrypoint}
		}
	}
	var err error
	if s.Restart, err = ParseRestart(f.restart); err != nil {
		return err
	}
	if f.changed("stop-timeout") {
		if f.stopTimeout < 0 {
			return errors.New("--stop-timeout: must not be negative")
		}
		s.StopTimeout = durationpb.New(time.Duration(f.stopTimeout) * time.Second)
	}
	return nil
}

func (f *Flags) ports(s *wherryv1.ContainerSpec) error {
	for _, text := range f.publish {
		p, err := ParsePort(text)
		if err != nil {
			return err
		}
		s.Ports = append(s.Ports, p)
	}
	for _, h := range f.extraHosts {
		// docker takes name=address too
		name, address, ok := strings.Cut(h, ":")
		if n, a, eq := strings.Cut(h, "="); eq && !strings.Contains(n, ":") {
			name, address, ok = n, a, true
		}
		if !ok || name == "" || address == "" {
			return fmt.Errorf("--add-host %q: want name:address", h)
		}
		s.ExtraHosts = append(s.ExtraHosts, name+":"+strings.Trim(address, "[]"))
	}
	return nil
}

func (f *Flags) storage(s *wherryv1.ContainerSpec) error {
	add := func(list []string, parse func(string) (*wherryv1.Mount, error)) error {
		for _, text := range list {
			m, err := parse(text)
			if err != nil {
				return err
			}
			s.Mounts = append(s.Mounts, m)
		}
		return nil
	}
	if err := errors.Join(add(f.volumes, ParseVolume), add(f.mounts, ParseMount), add(f.tmpfs, ParseTmpfs)); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, m := range s.Mounts {
		if seen[m.Target] {
			return fmt.Errorf("two mounts at %s", m.Target)
		}
		seen[m.Target] = true
	}
	var err error
	if f.shm != "" {
		s.ShmBytes, err = ParseBytes("--shm-size", f.shm)
	}
	return err
}

// joined fills in the networks. Aliases and addresses are of the first one, as docker's are.
func (f *Flags) joined(s *wherryv1.ContainerSpec) error {
	for _, text := range f.networks {
		switch text {
		case "host":
			s.NetworkMode = wherryv1.NetworkMode_NETWORK_MODE_HOST
			continue
		case "none":
			s.NetworkMode = wherryv1.NetworkMode_NETWORK_MODE_NONE
			continue
		}
		n, err := parseNetwork(text)
		if err != nil {
			return err
		}
		s.Networks = append(s.Networks, n)
	}
	if s.NetworkMode != wherryv1.NetworkMode_NETWORK_MODE_BRIDGE && len(f.networks) > 1 {
		return errors.New("--network host and none stand alone")
	}
	if len(f.aliases) == 0 && f.ip == "" && f.ip6 == "" {
		return nil
	}
	if len(s.Networks) == 0 {
		return errors.New("--network-alias, --ip and --ip6 need a --network that was created")
	}
	first := s.Networks[0]
	first.Aliases = append(first.Aliases, f.aliases...)
	if f.ip != "" {
		first.Ipv4 = f.ip
	}
	if f.ip6 != "" {
		first.Ipv6 = f.ip6
	}
	return nil
}

// parseNetwork reads NAME or docker's long form name=NAME,alias=…,ip=….
func parseNetwork(text string) (*wherryv1.NetworkAttachment, error) {
	if strings.HasPrefix(text, "container:") {
		return nil, fmt.Errorf("--network %s: sharing another container's network is not supported", text)
	}
	if !strings.Contains(text, "=") {
		if text == "default" {
			text = "bridge" // as the default network is called
		}
		return &wherryv1.NetworkAttachment{Network: text}, nil
	}
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return nil, fmt.Errorf("--network %q: %w", text, err)
	}
	n := &wherryv1.NetworkAttachment{}
	for _, field := range fields {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "name":
			n.Network = value
		case "alias":
			n.Aliases = append(n.Aliases, value)
		case "ip":
			n.Ipv4 = value
		case "ip6":
			n.Ipv6 = value
		default:
			return nil, fmt.Errorf("--network %q: unknown option %q", text, key)
		}
	}
	if n.Network == "" {
		return nil, fmt.Errorf("--network %q: name= is missing", text)
	}
	return n, nil
}

func (f *Flags) health(s *wherryv1.ContainerSpec) error {
	if f.noHealth {
		if f.healthCmd != "" {
			return errors.New("--no-healthcheck and --health-cmd exclude each other")
		}
		s.Health = &wherryv1.HealthCheck{Test: []string{"NONE"}}
		return nil
	}
	if f.healthInterval < 0 || f.healthTimeout < 0 || f.healthStart < 0 || f.healthRetries < 0 {
		return errors.New("the times and retries of a health check must not be negative")
	}
	if f.healthCmd == "" && f.healthInterval == 0 && f.healthTimeout == 0 && f.healthStart == 0 && f.healthRetries == 0 {
		return nil
	}
	h := &wherryv1.HealthCheck{Retries: uint32(f.healthRetries)}
	if f.healthCmd != "" {
		h.Test = []string{"CMD-SHELL", f.healthCmd}
	}
	for _, d := range []struct {
		value time.Duration
		to    **durationpb.Duration
	}{{f.healthInterval, &h.Interval}, {f.healthTimeout, &h.Timeout}, {f.healthStart, &h.StartPeriod}} {
		if d.value != 0 {
			*d.to = durationpb.New(d.value)
		}
	}
	s.Health = h
	return nil
}
