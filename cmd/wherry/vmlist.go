// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"wherry.example/wherry/internal/host/qemu"
)

func newVMListCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List virtual machines",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			infos, err := vmInfos(cmd.Context())
			if err != nil {
				return err
			}
			return printVMs(cmd.OutOrStdout(), infos, output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func vmInfos(ctx context.Context) ([]qemu.Info, error) {
	store, err := qemu.DefaultStore()
	if err != nil {
		return nil, err
	}
	vms, err := store.List()
	if err != nil {
		return nil, err
	}
	infos := []qemu.Info{}
	for _, vm := range vms {
		info, err := vm.Info()
		if err != nil {
			return nil, err
		}
		info.Paused = info.Running && vm.Paused(ctx) != nil
		infos = append(infos, info)
	}
	return infos, nil
}

func printVMs(w io.Writer, infos []qemu.Info, output string) error {
	switch output {
	case "json":
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(infos)
	case "table":
	default:
		return fmt.Errorf("output %q: use table or json", output)
	}
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "NAME\tSTATUS\tAPI\tMEMORY\tCPUS\tDISK\tPORTS")
	for _, i := range infos {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", i.Name, vmStatus(i), i.API,
			units.BytesSize(float64(i.Settings.MemoryMiB)*(1<<20)), i.Settings.CPUs, vmDisk(i), vmPorts(i))
	}
	return table.Flush()
}

// completeVMs completes the first argument with a machine's name.
func completeVMs(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	infos, err := vmInfos(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, i := range infos {
		if !slices.Contains(args, i.Name) {
			names = append(names, i.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func vmStatus(i qemu.Info) string {
	switch {
	case i.Paused:
		return "Paused: this computer's disk is full"
	case i.Ready:
		return "Up " + units.HumanDuration(time.Since(i.Run.StartedAt))
	case i.Running:
		return "Starting"
	}
	return "Stopped"
}

func vmDisk(i qemu.Info) string {
	if i.Settings.DiskBytes == 0 {
		return "none"
	}
	return units.BytesSize(float64(i.Settings.DiskBytes))
}

func vmPorts(i qemu.Info) string {
	var ports []string
	for _, f := range i.Settings.Forwards {
		ports = append(ports, f.String())
	}
	return strings.Join(ports, ", ")
}
