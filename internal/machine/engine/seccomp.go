// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// fsSetXattr is FS_IOC_FSSETXATTR, with which the owner of a file can move it
// to another project and so out of its volume's quota.
const fsSetXattr = 0x401c5820

// ioctlName are the bits of an ioctl's command that name it: type and number.
// The rest tell the size and direction of its argument.
const ioctlName = 0xffff

// seccompProfile is docker's default for the capabilities of the spec, without
// the one ioctl that undoes volume limits, and without x32: Debian's kernels
// have that ABI off, and the rules for it would be a third of the filter, which
// is compiled at every start.
func seccompProfile(s *specs.Spec) (*specs.LinuxSeccomp, error) {
	p, err := seccomp.GetDefaultProfile(s)
	if err != nil {
		return nil, fmt.Errorf("make the seccomp profile: %w", err)
	}
	p.Architectures = slices.DeleteFunc(p.Architectures, func(a specs.Arch) bool { return a == specs.ArchX32 })
	forbidIoctl(p, fsSetXattr)
	return p, nil
}

// forbidIoctl replaces every unconditional permission of ioctl by one that
// leaves out cmd, and whatever else has its type and number. A filter can hold
// only one comparison per argument in a rule and rules are alternatives, so "not
// equal" must be said bit by bit: a command is allowed if any single bit of its
// name differs. The rules look at these bits alone, as the kernel looks at the
// lower 32 of the argument, so nothing is gained by setting others. Other
// architectures that the profile allows have the same number for the same command.
func forbidIoctl(p *specs.LinuxSeccomp, cmd uint32) {
	for i := range p.Syscalls {
		c := &p.Syscalls[i]
		if c.Action != specs.ActAllow || len(c.Args) > 0 || !slices.Contains(c.Names, "ioctl") {
			continue
		}
		c.Names = slices.DeleteFunc(slices.Clone(c.Names), func(n string) bool { return n == "ioctl" })
	}
	p.Syscalls = slices.DeleteFunc(p.Syscalls, func(c specs.LinuxSyscall) bool { return len(c.Names) == 0 })
	for bit := range bits.Len(ioctlName) {
		mask := uint64(1) << bit
		p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{
			Names:  []string{"ioctl"},
			Action: specs.ActAllow,
			Args:   []specs.LinuxSeccompArg{{Index: 1, Op: specs.OpMaskedEqual, Value: mask, ValueTwo: mask &^ uint64(cmd)}},
		})
	}
}
