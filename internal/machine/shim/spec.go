// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"sync"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// maxSpec bounds a specification; the engine's own are below 100 KB.
const maxSpec = 4 << 20

// readSpec reads the bundle's config.json.
func readSpec(bundle string) (*specs.Spec, error) {
	path := filepath.Join(bundle, "config.json")
	if st, err := os.Stat(path); err != nil {
		return nil, err
	} else if st.Size() > maxSpec {
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxSpec)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	spec := &specs.Spec{}
	if err := json.Unmarshal(b, spec); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return spec, checkSpec(spec)
}

// checkSpec refuses what libcontainer would panic at or take for relative to this process's directory.
func checkSpec(s *specs.Spec) error {
	switch {
	case s.Root == nil || !filepath.IsAbs(s.Root.Path):
		return errors.New("the specification's root is no absolute path")
	case s.Linux == nil:
		return errors.New("the specification has no linux part")
	case !filepath.IsAbs(s.Linux.CgroupsPath):
		return errors.New("the specification's cgroup is no absolute path")
	}
	for _, m := range s.Mounts {
		if m.Type == "bind" && !filepath.IsAbs(m.Source) {
			return fmt.Errorf("the source of the mount at %s is no absolute path", m.Destination)
		}
	}
	return checkProcess(s.Process)
}

func checkProcess(p *specs.Process) error {
	switch {
	case p == nil:
		return errors.New("the specification has no process")
	case !filepath.IsAbs(p.Cwd):
		return errors.New("the process's working directory is no absolute path")
	case len(p.Args) == 0:
		return errors.New("the process has no arguments")
	}
	return nil
}

// configOf translates a specification. Processes never inherit this one's
// protection from lack of memory: what does not say its own value gets 0.
func configOf(id string, s *specs.Spec) (*configs.Config, error) {
	if s.Process.OOMScoreAdj == nil {
		s.Process.OOMScoreAdj = new(int)
	}
	return specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: id, Spec: s})
}

// shared keeps one copy of the filter of system calls, the largest part of a
// configuration, which is the same for most containers. libcontainer only reads it.
type shared struct {
	mu   sync.Mutex
	last *configs.Seccomp
}

func (s *shared) share(c *configs.Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.Seccomp != nil && !reflect.DeepEqual(c.Seccomp, s.last) {
		s.last = c.Seccomp
	}
	if c.Seccomp != nil {
		c.Seccomp = s.last
	}
}

// processOf translates what libcontainer takes apart from the container's configuration.
func processOf(p *specs.Process, init bool) (*libcontainer.Process, error) {
	lp := &libcontainer.Process{
		Args: p.Args, Env: p.Env, UID: int(p.User.UID), GID: int(p.User.GID), Cwd: p.Cwd,
		Label: p.SelinuxLabel, AppArmorProfile: p.ApparmorProfile, NoNewPrivileges: &p.NoNewPrivileges,
		Scheduler: p.Scheduler, IOPriority: p.IOPriority, Init: init,
		LogLevel: strconv.Itoa(int(logrus.WarnLevel)),
	}
	for _, g := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(g))
	}
	if c := p.Capabilities; c != nil {
		lp.Capabilities = &configs.Capabilities{Bounding: c.Bounding, Effective: c.Effective, Inheritable: c.Inheritable, Permitted: c.Permitted, Ambient: c.Ambient}
	}
	if s := p.ConsoleSize; s != nil {
		lp.ConsoleWidth, lp.ConsoleHeight = uint16(s.Width), uint16(s.Height)
	}
	for _, r := range p.Rlimits {
		kind, ok := rlimits[r.Type]
		if !ok {
			return nil, fmt.Errorf("the limit %q is not known", r.Type)
		}
		lp.Rlimits = append(lp.Rlimits, configs.Rlimit{Type: kind, Hard: r.Hard, Soft: r.Soft})
	}
	var err error
	lp.CPUAffinity, err = configs.ConvertCPUAffinity(p.ExecCPUAffinity)
	return lp, err
}

var rlimits = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}
