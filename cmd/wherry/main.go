// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Command wherry builds Wherry, runs it in virtual machines, and talks to
// machines through their API. It holds flags and wiring only.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"wherry.example/wherry/internal/host/ctl"
	"wherry.example/wherry/internal/version"
)

func main() {
	ctx, signals, stop := ctl.HandleSignals(context.Background())
	defer stop()
	a := &app{signals: signals}
	err := newRootCommand(a).ExecuteContext(ctx)
	a.close()
	var exit *ctl.ExitError
	var signal *ctl.SignalError
	switch {
	case errors.As(err, &exit) && exit.Err == nil, errors.As(err, &signal):
	case err != nil:
		fmt.Fprintln(os.Stderr, "wherry:", a.explain(err))
	}
	if code := ctl.ExitCode(err); code != 0 {
		os.Exit(code)
	}
}

const rootLong = `Wherry is a container operating system. This program builds it, starts it in
virtual machines, and runs containers on machines through their API.

  wherry vm start demo                       a machine on this computer
  wherry run -d --name web -p 8080:80 nginx  a container on it
  wherry ps, logs, exec -it, stop, rm …      as with docker
  wherry status                              how the machine fares

Commands go to the machine named with -m, else in $WHERRY_MACHINE, else to the
one chosen with "wherry machine use", else to the only one there is.`

func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "wherry",
		Short:         "A container operating system and everything to work with it",
		Long:          rootLong,
		Version:       version.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return a.checkFlags()
		},
	}
	a.register(root)
	root.AddGroup(&cobra.Group{ID: groupContainers, Title: "Containers:"}, &cobra.Group{ID: groupObjects, Title: "Images, volumes, networks:"},
		&cobra.Group{ID: groupMachines, Title: "Machines:"})
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(groupContainers, containerCommands(a)...)
	add(groupObjects, objectCommands(a)...)
	add(groupMachines, machineCommands(a)...)
	add(groupMachines, newVMCommand(), newBuildCommand(), newReleaseCommand(a))
	root.AddCommand(absentCommands()...)
	explainUsage(root)
	return root
}

const (
	groupContainers = "containers"
	groupObjects    = "objects"
	groupMachines   = "machines"
)
