// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"wherry.example/wherry/api/wherryv1"
)

// noMemoryLimit stands for docker's -1: more than any machine has.
const noMemoryLimit = 1 << 60

// ParseBytes reads a size as docker does: 512m, 1g, 65536.
func ParseBytes(flag, text string) (uint64, error) {
	n, err := units.RAMInBytes(text)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s %q: want a size such as 65536, 512k, 64m or 1.5g", flag, text)
	}
	return uint64(n), nil
}

// ParseRestart reads no, on-failure[:N], always and unless-stopped.
func ParseRestart(text string) (*wherryv1.RestartPolicy, error) {
	kind, retries, counted := strings.Cut(text, ":")
	p := &wherryv1.RestartPolicy{}
	switch kind {
	case "", "no":
	case "always":
		p.Kind = wherryv1.RestartPolicy_KIND_ALWAYS
	case "unless-stopped":
		p.Kind = wherryv1.RestartPolicy_KIND_UNLESS_STOPPED
	case "on-failure":
		p.Kind = wherryv1.RestartPolicy_KIND_ON_FAILURE
	default:
		return nil, fmt.Errorf("--restart %q: want no, on-failure[:N], always or unless-stopped", text)
	}
	if !counted {
		return p, nil
	}
	n, err := strconv.ParseUint(retries, 10, 31)
	if err != nil || kind != "on-failure" {
		return nil, fmt.Errorf("--restart %q: only on-failure takes a number of tries", text)
	}
	p.MaxRetries = uint32(n)
	return p, nil
}

// ParseCPUs reads a number of CPUs to the billionth.
func ParseCPUs(text string) (int64, error) {
	r, ok := new(big.Rat).SetString(text)
	if !ok || strings.ContainsAny(text, "/eE") || r.Sign() < 0 {
		return 0, fmt.Errorf("--cpus %q: want a number such as 0.5 or 2", text)
	}
	nano := r.Mul(r, big.NewRat(1e9, 1))
	if !nano.IsInt() || !nano.Num().IsInt64() {
		return 0, fmt.Errorf("--cpus %q: want a number such as 0.5 or 2", text)
	}
	return nano.Num().Int64(), nil
}

var ulimitNames = map[string]bool{
	"core": true, "cpu": true, "data": true, "fsize": true, "locks": true, "memlock": true, "msgqueue": true, "nice": true,
	"nofile": true, "nproc": true, "rss": true, "rtprio": true, "rttime": true, "sigpending": true, "stack": true,
}

// ParseUlimit reads name=soft[:hard]; -1 and unlimited are no limit.
func ParseUlimit(text string) (*wherryv1.Ulimit, error) {
	bad := fmt.Errorf("--ulimit %q: want name=soft[:hard], such as nofile=1024:2048", text)
	name, limits, ok := strings.Cut(text, "=")
	if !ok || limits == "" {
		return nil, bad
	}
	if !ulimitNames[name] {
		return nil, fmt.Errorf("--ulimit %q: there is no limit called %q", text, name)
	}
	softText, hardText, both := strings.Cut(limits, ":")
	if !both {
		hardText = softText
	}
	soft, err1 := parseLimit(softText)
	hard, err2 := parseLimit(hardText)
	if err1 != nil || err2 != nil {
		return nil, bad
	}
	if hard != -1 && (soft == -1 || soft > hard) {
		return nil, fmt.Errorf("--ulimit %q: the soft limit is above the hard one", text)
	}
	return &wherryv1.Ulimit{Name: name, Soft: soft, Hard: hard}, nil
}

func parseLimit(text string) (int64, error) {
	if text == "unlimited" {
		return -1, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err == nil && n < -1 {
		err = strconv.ErrRange
	}
	return n, err
}

func (f *Flags) limits(s *wherryv1.ContainerSpec) error {
	r := &wherryv1.Resources{Cpuset: f.cpuset}
	var err error
	if f.memory != "" {
		if r.MemoryBytes, err = ParseBytes("--memory", f.memory); err != nil {
			return err
		}
	}
	switch f.memorySwap {
	case "":
	case "-1":
		r.MemorySwapBytes = noMemoryLimit
	default:
		if r.MemorySwapBytes, err = ParseBytes("--memory-swap", f.memorySwap); err != nil {
			return err
		}
	}
	if f.cpus != "" {
		if r.NanoCpus, err = ParseCPUs(f.cpus); err != nil {
			return err
		}
	}
	if f.cpuShares < 0 {
		return errors.New("--cpu-shares: must not be negative")
	}
	r.CpuShares = uint64(f.cpuShares)
	r.Pids = max(f.pids, 0)
	s.Resources = r
	for _, text := range f.ulimits {
		u, err := ParseUlimit(text)
		if err != nil {
			return err
		}
		s.Ulimits = append(s.Ulimits, u)
	}
	s.Sysctls, err = pairs("--sysctl", f.sysctls, true)
	return err
}

func (f *Flags) process(s *wherryv1.ContainerSpec) error {
	for _, o := range f.securityOpts {
		switch strings.ReplaceAll(o, "=", ":") {
		case "no-new-privileges", "no-new-privileges:true":
			s.NoNewPrivileges = true
		case "no-new-privileges:false":
			s.NoNewPrivileges = false
		default:
			return fmt.Errorf("--security-opt %q: only no-new-privileges is supported", o)
		}
	}
	if f.changed("oom-score-adj") {
		if f.oomScoreAdj < -1000 || f.oomScoreAdj > 1000 {
			return fmt.Errorf("--oom-score-adj %d: want -1000…1000", f.oomScoreAdj)
		}
		s.OomScoreAdjSet, s.OomScoreAdj = true, int32(f.oomScoreAdj)
	}
	return nil
}

func (f *Flags) logging(s *wherryv1.ContainerSpec) error {
	for _, o := range f.logOpts {
		if s.Log == nil {
			s.Log = &wherryv1.LogOptions{}
		}
		name, value, _ := strings.Cut(o, "=")
		var err error
		switch name {
		case "max-size":
			s.Log.MaxBytes, err = ParseBytes("--log-opt max-size", value)
		case "max-file":
			var n uint64
			if n, err = strconv.ParseUint(value, 10, 16); err != nil || n == 0 {
				err = fmt.Errorf("--log-opt %q: want a number of files", o)
			}
			s.Log.MaxFiles = uint32(n)
		default:
			err = fmt.Errorf("--log-opt %q: only max-size and max-file are supported", o)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// pairs reads name=value entries; strict ones must have a value.
func pairs(flag string, list []string, strict bool) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	out := map[string]string{}
	for _, entry := range list {
		name, value, ok := strings.Cut(entry, "=")
		if name == "" || (strict && !ok) {
			return nil, fmt.Errorf("%s %q: want name=value", flag, entry)
		}
		out[name] = value
	}
	return out, nil
}

// Labels reads label flags: name=value or name.
func Labels(list []string) (map[string]string, error) { return pairs("--label", list, false) }

func (f *Flags) labelled(s *wherryv1.ContainerSpec) error {
	var all []string
	for _, file := range f.labelFiles {
		lines, err := readLines("--label-file", file)
		if err != nil {
			return err
		}
		all = append(all, lines...)
	}
	var err error
	s.Labels, err = Labels(append(all, f.labels...))
	return err
}

func (f *Flags) environment(s *wherryv1.ContainerSpec) error {
	env, err := Env(f.envFiles, f.env)
	s.Env = env
	return err
}

// Env reads --env-file and --env: the latter win. NAME alone takes the value
// that it has here, and is left out when it has none.
func Env(files, flags []string) ([]string, error) {
	var entries []string
	for _, file := range files {
		lines, err := readLines("--env-file", file)
		if err != nil {
			return nil, err
		}
		entries = append(entries, lines...)
	}
	var env []string
	for _, e := range append(entries, flags...) {
		name, _, ok := strings.Cut(e, "=")
		if name == "" || strings.ContainsAny(name, " \t") {
			return nil, fmt.Errorf("environment variable %q: want NAME=value", e)
		}
		if !ok {
			value, set := os.LookupEnv(name)
			if !set {
				continue
			}
			e = name + "=" + value
		}
		env = append(env, e)
	}
	return env, nil
}

const maxFileBytes = 1 << 20

// readLines returns the lines of a file that are not empty and not comments.
func readLines(flag, path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	defer f.Close()
	var lines []string
	scan := bufio.NewScanner(io.LimitReader(f, maxFileBytes))
	scan.Buffer(nil, maxFileBytes)
	for scan.Scan() {
		line := strings.TrimLeft(strings.TrimPrefix(scan.Text(), "\ufeff"), " \t")
		if line != "" && line[0] != '#' {
			lines = append(lines, line)
		}
	}
	if err := scan.Err(); err != nil {
		return nil, fmt.Errorf("%s %s: %w", flag, path, err)
	}
	return lines, nil
}
