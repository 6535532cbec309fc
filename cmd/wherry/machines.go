// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"wherry.example/wherry/internal/host/known"
	"wherry.example/wherry/internal/host/login"
	"wherry.example/wherry/internal/version"
)

func machineCommands(a *app) []*cobra.Command {
	status := &cobra.Command{Use: "status", Short: "One screen about the machine", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.cli(cmd).Status(cmd.Context()) }}
	versions := &cobra.Command{Use: "version", Short: "Print the versions of this program and of the machine", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.cli(cmd).Version(cmd.Context(), version.Version) }}
	return []*cobra.Command{newMachineCommand(a), status, versions}
}

func newMachineCommand(a *app) *cobra.Command {
	root := &cobra.Command{Use: "machine", Short: "Machines that you know, and the machine itself"}
	list := &cobra.Command{Use: "ls", Aliases: []string{"list"}, Short: "List known machines", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := known.Default()
			if err != nil {
				return err
			}
			return a.cli(cmd).ListMachines(store)
		}}
	whoami := &cobra.Command{Use: "whoami", Short: "Print how the machine sees you", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.cli(cmd).WhoAmI(cmd.Context()) }}
	off := &cobra.Command{Use: "poweroff", Short: "Stop its containers and switch the machine off", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.cli(cmd).PowerOff(cmd.Context()) }}
	root.AddCommand(list, newMachineAddCommand(), machineNameCommand("use NAME", "Choose the machine that commands go to", (*known.Store).Use),
		machineNameCommand("rm NAME", "Forget a machine", (*known.Store).Remove), newMachineLogCommand(a), newConfigCommand(a), newRebootCommand(a), newDisksCommand(a), newInstallCommand(a), off, whoami, newUpdateCommand(a), newRollbackCommand(a), newAttestCommand(a))
	return root
}

func newMachineAddCommand() *cobra.Command {
	var fingerprint string
	cmd := &cobra.Command{
		Use: "add NAME ADDRESS", Short: "Make a machine known",
		Long: `Make a machine known under a name. Its key's fingerprint is shown, to be compared
with the one on the machine's console; --fingerprint does that without asking.`,
		Example: "  wherry machine add attic 192.0.2.7\n  wherry machine add edge edge.example.org:9473 --fingerprint SHA256:…",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := known.Default()
			if err != nil {
				return err
			}
			m, err := login.Meet(cmd.Context(), store, args[0], args[1], fingerprint, login.Terminal())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "machine %s at %s is known now, by its key %s\n", m.Name, m.Address, m.Fingerprint)
			return nil
		},
	}
	cmd.Flags().StringVar(&fingerprint, "fingerprint", "", "the key that the machine must have: SHA256:…")
	return cmd
}

// machineNameCommand does something to one known machine.
func machineNameCommand(use, short string, do func(*known.Store, string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return machineNames(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			store, err := known.Default()
			if err != nil {
				return err
			}
			return do(store, args[0])
		}}
}

func newMachineLogCommand(a *app) *cobra.Command {
	var follow, kernel bool
	var tail uint32
	cmd := &cobra.Command{Use: "log [flags]", Short: "Print the machine's own log", Example: "  wherry machine log -f\n  wherry machine log --kernel", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.cli(cmd).MachineLog(cmd.Context(), follow, kernel, tail)
		}}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes")
	cmd.Flags().BoolVarP(&kernel, "kernel", "k", false, "the kernel's log instead")
	cmd.Flags().Uint32VarP(&tail, "tail", "n", 0, "the last lines only")
	return cmd
}

func newConfigCommand(a *app) *cobra.Command {
	root := &cobra.Command{Use: "config", Short: "What the machine should be"}
	show := &cobra.Command{Use: "show", Short: "Print the configuration in use, without secrets", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.cli(cmd).ShowConfig(cmd.Context()) }}
	var force bool
	apply := &cobra.Command{Use: "apply [flags] FILE", Short: "Make the machine follow a configuration", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cli(cmd).ApplyConfig(cmd.Context(), args[0], false, force)
		}}
	apply.Flags().BoolVar(&force, "force", false, "even when it takes your own key away")
	diff := &cobra.Command{Use: "diff FILE", Short: "Print what a configuration would change", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.cli(cmd).ApplyConfig(cmd.Context(), args[0], true, false)
		}}
	root.AddCommand(show, apply, diff)
	return root
}

func newRebootCommand(a *app) *cobra.Command {
	var nowait bool
	var timeout time.Duration
	cmd := &cobra.Command{Use: "reboot", Short: "Restart the machine and wait until it is back", Args: cobra.NoArgs,
		Long:    "Restart the machine, wait until it answers again, and name the containers that still start.",
		Example: "  wherry machine reboot\n  wherry machine reboot --no-wait",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.cli(cmd).Reboot(cmd.Context(), !nowait, timeout)
		}}
	cmd.Flags().BoolVar(&nowait, "no-wait", false, "do not wait")
	cmd.Flags().DurationVar(&timeout, "timeout", 6*time.Minute, "how long to wait")
	return cmd
}
