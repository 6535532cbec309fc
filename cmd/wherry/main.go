// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Command wherry builds Wherry, runs it in virtual machines, and talks to
// machines through their API. It holds flags and wiring only.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newRootCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "wherry:", err)
		os.Exit(1)
	}
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "wherry",
		Short:         "A container operating system and everything to work with it",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newVMCommand(), newBuildCommand())
	return root
}
