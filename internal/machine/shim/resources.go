// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// applyResources changes what r names and keeps the rest.
func applyResources(to *cgroups.Resources, r *specs.LinuxResources) {
	to.SkipDevices = true // the rules are there and do not change
	if m := r.Memory; m != nil {
		set(&to.Memory, m.Limit)
		set(&to.MemoryReservation, m.Reservation)
		set(&to.MemorySwap, m.Swap)
		set(&to.MemoryCheckBeforeUpdate, m.CheckBeforeUpdate)
	}
	if c := r.CPU; c != nil {
		applyCPU(to, c)
	}
	if p := r.Pids; p != nil && p.Limit != nil {
		to.PidsLimit = p.Limit
	}
	if r.Unified != nil {
		to.Unified = r.Unified
	}
}

func applyCPU(to *cgroups.Resources, c *specs.LinuxCPU) {
	set(&to.CpuQuota, c.Quota)
	set(&to.CpuPeriod, c.Period)
	if c.Shares != nil {
		to.CpuShares = *c.Shares
		to.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*c.Shares)
	}
	if c.Burst != nil {
		to.CpuBurst = c.Burst
	}
	if c.Idle != nil {
		to.CPUIdle = c.Idle
	}
	if c.Cpus != "" {
		to.CpusetCpus = c.Cpus
	}
	if c.Mems != "" {
		to.CpusetMems = c.Mems
	}
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}
