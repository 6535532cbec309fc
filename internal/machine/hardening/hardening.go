// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package hardening sets the kernel up for a machine that runs other people's
// programs: settings that make it harder to attack (after the advice of the
// Kernel Self Protection Project), settings that container hosts need, limits,
// and the seed of the random number generator.
//
// It owns the sysctls of its table (settings.go), but for those that the
// configuration names, which win; the sysctls of single links and forwarding
// belong to the networks. It reads nothing but /proc/sys. Apply may be called
// again with another configuration: what is set already is not touched. A
// setting that the kernel refuses is reported and does not keep the others
// from being made: a machine that is less hardened still runs, and says so.
//
// Seed keeps 32 random bytes on the state file system from one boot to the
// next, so that a machine without a hardware generator does not wait at boot.
package hardening

import (
	"errors"
	"log/slog"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/linux/sysctl"
)

// Apply sets the defaults and, over them, the configuration's sysctls. Every
// failure is logged, and all of them are returned joined.
func Apply(log *slog.Logger, sysctls map[string]string) error {
	var errs []error
	for _, s := range Plan(sysctls) {
		err := sysctl.Set(s.Name, s.Value)
		if err == nil || s.Optional && errors.Is(err, os.ErrNotExist) {
			continue
		}
		log.Warn("kernel setting", "error", err)
		errs = append(errs, err)
	}
	if err := limits(); err != nil {
		log.Warn("limits", "error", err)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Plan returns what to set, in order: the defaults that the configuration
// does not name, then the configuration's own.
func Plan(sysctls map[string]string) []Setting {
	var out []Setting
	for _, s := range Defaults() {
		if _, named := sysctls[s.Name]; !named {
			out = append(out, s)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(sysctls)) {
		out = append(out, Setting{Name: name, Value: sysctls[name], Why: "configuration"})
	}
	return out
}

// Observe returns the kernel's values of the settings; those that it does not have are left out.
func Observe(settings []Setting) map[string]string {
	out := map[string]string{}
	for _, s := range settings {
		if v, err := sysctl.Get(s.Name); err == nil {
			out[s.Name] = v
		}
	}
	return out
}

// maxFiles is how many files wherryd and what it starts may have open: the
// kernel's own ceiling (fs.nr_open). Containers get their own limits.
const maxFiles = 1 << 20

// limits raises this process's limits, which what it starts inherits.
func limits() error {
	files := unix.Rlimit{Cur: maxFiles, Max: maxFiles}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return errors.Join(errors.New("raise the limit of open files"), err)
	}
	// No core files: they would hold secrets and fill the state file system.
	return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 0, Max: unix.RLIM_INFINITY})
}
