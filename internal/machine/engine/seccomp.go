// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"slices"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// fsSetXattr is FS_IOC_FSSETXATTR, with which the owner of a file can move it
// to another project and so out of its volume's quota.
const fsSetXattr = 0x401c5820

// seccompProfile is docker's default for the capabilities of the spec, without
// the one ioctl that undoes volume limits.
func seccompProfile(s *specs.Spec) (*specs.LinuxSeccomp, error) {
	p, err := seccomp.GetDefaultProfile(s)
	if err != nil {
		return nil, fmt.Errorf("make the seccomp profile: %w", err)
	}
	forbidIoctl(p, fsSetXattr)
	return p, nil
}

// forbidIoctl replaces every unconditional permission of ioctl by one that
// leaves cmd out. A filter can hold only one comparison per argument in a rule
// and rules are alternatives, so "not equal" must be said in 32 rules: the
// command is allowed if any single bit of it differs. The kernel uses the lower
// 32 bits of the argument alone; so do the rules, else a caller could set a bit
// above them and pass. Other architectures that the profile allows have the
// same number for the same command.
func forbidIoctl(p *specs.LinuxSeccomp, cmd uint32) {
	for i := range p.Syscalls {
		c := &p.Syscalls[i]
		if c.Action != specs.ActAllow || len(c.Args) > 0 || !slices.Contains(c.Names, "ioctl") {
			continue
		}
		c.Names = slices.DeleteFunc(slices.Clone(c.Names), func(n string) bool { return n == "ioctl" })
	}
	p.Syscalls = slices.DeleteFunc(p.Syscalls, func(c specs.LinuxSyscall) bool { return len(c.Names) == 0 })
	for bit := range 32 {
		mask := uint64(1) << bit
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{
			Names:  []string{"ioctl"},
			Action: specs.ActAllow,
			Args:   []specs.LinuxSeccompArg{{Index: 1, Op: specs.OpMaskedEqual, Value: mask, ValueTwo: mask &^ uint64(cmd)}},
		})
	}
}
