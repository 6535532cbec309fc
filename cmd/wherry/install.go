// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"time"

	"github.com/spf13/cobra"

	"wherry.example/wherry/internal/host/ctl"
	"wherry.example/wherry/internal/host/login"
)

func newDisksCommand(a *app) *cobra.Command {
	return &cobra.Command{Use: "disks", Short: "List the machine's disks: what is on them, and which can be installed onto", Example: "  wherry -m live machine disks", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.cli(cmd).Disks(cmd.Context()) }}
}

func newInstallCommand(a *app) *cobra.Command {
	var o ctl.InstallOptions
	var yes bool
	cmd := &cobra.Command{
		Use: "install DISK", Short: "Put the operating system that runs onto a disk of the machine",
		Long: `Put the operating system that runs onto a disk of the machine, so that it starts
from there. The machine was started from a live medium, or from another disk.

DISK is a name (vda, /dev/nvme0n1) or serial:NUMBER; or first, smallest or
largest of the empty ones. A disk with anything on it is refused, unless --wipe
says that all of it may be lost.

The installed machine has this one's configuration, or that of --config. It also
has this machine's key where that would be lost otherwise, as it is on a live
medium; so you reach it as you reach this one.`,
		Example: "  wherry -m live machine disks\n  wherry -m live machine install vda --reboot\n  wherry -m live machine install serial:S4EWNX0R123456 --wipe --config attic.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Disk = args[0]
			if asker := login.Terminal(); asker != nil && !yes {
				o.Confirm = asker.Confirm
			}
			return a.cli(cmd).Install(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.Wipe, "wipe", false, "even if there is data on the disk: all of it is lost")
	f.BoolVar(&yes, "yes", false, "with --wipe: do not ask")
	f.StringVar(&o.Document, "config", "", "configuration of the installed machine (default: this one's)")
	f.BoolVar(&o.NewKey, "new-key", false, "the installed machine makes a key of its own")
	f.BoolVar(&o.Reboot, "reboot", false, "then start the installed machine and wait for it")
	f.DurationVar(&o.Timeout, "timeout", 6*time.Minute, "how long to wait for that")
	return cmd
}
