// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/linux/cgroup"
	"wherry.example/wherry/internal/linux/mount"
)

// The boot, as values that print themselves. Each stage's steps are done in
// order; a stage that is essential ends the boot when a step fails, with the
// stage's hint.

// step is one thing to do at boot.
type step interface {
	String() string
	Do() error
}

// stage is a part of the boot.
type stage struct {
	name      string
	essential bool
	hint      string
	steps     []step
}

const modules = "/lib/modules"

// The control groups: init and wherryd in leaves of their own, containers
// below /wherry (the engine gives runc the path /wherry/CONTAINER).
const (
	initGroup      cgroup.Group = "/init"
	daemonGroup    cgroup.Group = "/wherryd"
	containerGroup cgroup.Group = "/wherry"
)

// Kernel scores for the OOM killer: it never takes init, and wherryd last of all.
const (
	initScore   = -1000
	daemonScore = -999
)

const (
	noSuid   = unix.MS_NOSUID
	noDev    = unix.MS_NODEV
	noExec   = unix.MS_NOEXEC
	noDevSUX = noSuid | noDev | noExec
)

// systemStage is what is mounted beside what wherry-early has mounted.
var systemStage = stage{
	name: "system file systems", essential: true,
	hint: "The root image lacks a directory to mount on: build it again.",
	steps: []step{
		mount.Mount{Source: "tmpfs", Target: "/run", Type: "tmpfs", Flags: noSuid | noDev, Data: "mode=0755,size=20%,nr_inodes=64k"},
		mount.Mount{Source: "tmpfs", Target: "/tmp", Type: "tmpfs", Flags: noSuid | noDev, Data: "mode=1777,size=20%,nr_inodes=64k"},
		directory{"/run/wherry", 0o755},
	},
}

// kernelPartsStage is what a machine can be reached without, so that it can say what it lacks.
var kernelPartsStage = stage{
	name: "kernel parts",
	steps: []step{
		mount.Mount{Source: "devpts", Target: "/dev/pts", Type: "devpts", Flags: noSuid | noExec, Data: "mode=0620,gid=5,ptmxmode=0666", Mode: 0o755},
		mount.Mount{Source: "shm", Target: "/dev/shm", Type: "tmpfs", Flags: noDevSUX, Data: "mode=1777,size=20%", Mode: 0o1777},
		mount.Mount{Source: "mqueue", Target: "/dev/mqueue", Type: "mqueue", Flags: noDevSUX, Mode: 0o1777},
		mount.Mount{Source: "securityfs", Target: "/sys/kernel/security", Type: "securityfs", Flags: noDevSUX, Optional: true},
		mount.Mount{Source: "bpf", Target: "/sys/fs/bpf", Type: "bpf", Flags: noDevSUX, Data: "mode=0700", Optional: true},
		mount.Mount{Source: "cgroup2", Target: cgroup.Root, Type: "cgroup2", Flags: noDevSUX, Data: "nsdelegate,memory_recursiveprot"},
		mount.Mount{Source: "efivarfs", Target: "/sys/firmware/efi/efivars", Type: "efivarfs", Flags: noDevSUX, Needs: "/sys/firmware/efi", Optional: true},
		delegate{"/"},
		group{name: initGroup, memoryMin: "8M", pid: 1},
		group{name: daemonGroup, memoryMin: "48M"},
		group{name: containerGroup},
		delegate{containerGroup},
		score{1, initScore},
		ctrlAltDel{},
	},
}
