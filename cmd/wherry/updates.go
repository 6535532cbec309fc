// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"wherry.example/wherry/internal/host/ctl"
	"wherry.example/wherry/release"
)

// updateTime is enough for a slow machine to reboot, to try the new release
// for as long as a configuration may say, and to go back.
const updateTime = 45 * time.Minute

const updateLong = `Replace the machine's release by another, and see how that went.

A machine with updates.url in its configuration looks for releases itself, and
takes them within its maintenance window; these commands do by hand what it
would do then, or keep it from it. A new release stays only when the machine's
work is well in it: else the machine reboots into the old one.`

func newUpdateCommand(a *app) *cobra.Command {
	root := &cobra.Command{Use: "update", Short: "Replace the machine's release by another", Long: updateLong,
		Example: "  wherry machine update status\n  wherry machine update apply\n  wherry machine update apply 12.1.0.wherry\n  wherry machine update pause --for 48h"}
	check := &cobra.Command{Use: "check", Short: "Ask the repository now whether there is a release to take", Args: cobra.NoArgs,
		Example: "  wherry machine update check\n  wherry machine update check -o json",
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.cli(cmd).CheckUpdate(cmd.Context()) }}
	status := &cobra.Command{Use: "status", Short: "Print what runs, what waits and why, and when the machine goes on", Args: cobra.NoArgs,
		Example: "  wherry machine update status\n  wherry machine update status -o json",
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.cli(cmd).UpdateStatus(cmd.Context()) }}
	resume := &cobra.Command{Use: "resume", Short: "Let the machine update by itself again", Args: cobra.NoArgs,
		Example: "  wherry machine update resume",
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.cli(cmd).ResumeUpdates(cmd.Context()) }}
	root.AddCommand(check, newApplyCommand(a), status, newHistoryCommand(a), newPauseUpdatesCommand(a), resume)
	return root
}

func newApplyCommand(a *app) *cobra.Command {
	var o ctl.UpdateOptions
	var nowait bool
	cmd := &cobra.Command{
		Use: "apply [flags] [FILE.wherry]", Short: "Take a release now, and wait until it has proved itself",
		Long: `Take a release now, whatever mode, window and pause say: the one that the
machine's channel or pin offers, the one named with --to, or one out of a bundle
(wherry release bundle) for machines without a network. All are checked alike.
What the machine downloads by itself already is not fetched again: the command joins.

The command waits until the machine has rebooted and decided. The new release stays when
the network, the API, the state, each container that ran before and the checks of
updates.trial have all been well for 10 s (longer where a container fell over
meanwhile), and is left again when they were not within updates.trial.limit (5 minutes,
unless the configuration says otherwise). It ends with
  0  the release stays
  1  it was refused, or something went wrong before the reboot
  3  it did not work, or somebody went back: the machine is back in the old release
  4  the machine did not answer in time`,
		Example: "  wherry machine update apply\n  wherry machine update apply --to 12.1.0\n  wherry machine update apply 12.1.0.wherry --no-wait\n  wherry machine update apply --stage-only",
		Args:    cobra.MaximumNArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"wherry"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkVersion(o.Version, args); err != nil {
				return err
			}
			if len(args) > 0 {
				o.File = args[0]
			}
			o.Wait = !nowait
			return a.cli(cmd).ApplyUpdate(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Version, "to", "", "which release (default: what the channel or the pin says; of a bundle: its newest)")
	f.BoolVar(&o.StageOnly, "stage-only", false, "make it ready, and leave the reboot to later")
	f.BoolVar(&o.Retry, "retry", false, "also when it did not work here before, or somebody went back from it")
	f.BoolVar(&nowait, "no-wait", false, "do not wait for the machine to come back")
	f.DurationVar(&o.Timeout, "timeout", updateTime, "how long to wait after the reboot")
	complete(cmd, "to", func(string) []string { return a.cli(cmd).OfferedVersions(cmd.Context()) })
	return cmd
}

// checkVersion finds what is meant as --to and given as a file.
func checkVersion(to string, args []string) error {
	if to != "" {
		_, err := release.ParseVersion(to)
		return err
	}
	if len(args) == 0 {
		return nil
	}
	if _, err := release.ParseVersion(strings.TrimPrefix(args[0], "v")); err == nil {
		return fmt.Errorf("%s is a version and not a file: say --to %s", args[0], strings.TrimPrefix(args[0], "v"))
	}
	return nil
}

func newHistoryCommand(a *app) *cobra.Command {
	var limit uint32
	cmd := &cobra.Command{Use: "history", Short: "Print which releases were tried here, and how that ended", Args: cobra.NoArgs,
		Long: `Print which releases were tried here, and how that ended.

DOWN is for how long the work was stopped: from stopping the containers until all that ran
before ran again. What the machine then waits for to be sure is not counted.`,
		Example: "  wherry machine update history\n  wherry machine update history -n 1 -o json",
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.cli(cmd).UpdateHistory(cmd.Context(), limit) }}
	cmd.Flags().Uint32VarP(&limit, "limit", "n", 0, "the newest only")
	return cmd
}

func newPauseUpdatesCommand(a *app) *cobra.Command {
	var length time.Duration
	var until string
	cmd := &cobra.Command{Use: "pause", Short: "Keep the machine from updating by itself", Args: cobra.NoArgs,
		Long:    "Keep the machine from updating by itself, until it is resumed, for a time, or until\na date. What is asked for by hand is done nevertheless.",
		Example: "  wherry machine update pause\n  wherry machine update pause --for 48h\n  wherry machine update pause --until 2027-01-02T08:00",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.cli(cmd).PauseUpdates(cmd.Context(), length, until)
		}}
	cmd.Flags().DurationVar(&length, "for", 0, "how long: 2h, 90m")
	cmd.Flags().StringVar(&until, "until", "", "a date: 2026-12-24, 2026-12-24T18:00")
	return cmd
}

func newRollbackCommand(a *app) *cobra.Command {
	var nowait bool
	var timeout time.Duration
	cmd := &cobra.Command{Use: "rollback", Short: "Go back to the release before this one",
		Long: `Reboot into the release that ran before this one, which is still on the disk. The
release that is left is not taken again until there is a newer one, or somebody asks for
it (wherry machine update apply --retry). It counts as left by hand, and not as one that
did not work. State stays as it is.

The command waits until what ran before runs again, for as long as a trial may take
(updates.trial.limit), and names what does not.

Ends with 0 when the machine runs the older release, and else as update apply does.`,
		Example: "  wherry machine rollback\n  wherry machine rollback --no-wait", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.cli(cmd).Rollback(cmd.Context(), !nowait, timeout)
		}}
	cmd.Flags().BoolVar(&nowait, "no-wait", false, "do not wait for the machine to come back")
	cmd.Flags().DurationVar(&timeout, "timeout", updateTime, "how long to wait")
	return cmd
}
