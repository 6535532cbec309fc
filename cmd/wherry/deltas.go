// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"wherry.example/wherry/internal/atomicfile"
	publishing "wherry.example/wherry/internal/host/publish"
)

// deltaFlags say from how many older releases there are deltas.
type deltaFlags struct{ count string }

func (f *deltaFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.count, "deltas", "3", "from how many older versions machines get a small file instead of the whole one, beside each channel's current; none: from none")
}

// deltas are those of the flag. Progress goes to w.
func (f *deltaFlags) deltas(cmd *cobra.Command, w io.Writer) (publishing.Deltas, error) {
	d := publishing.Deltas{Progress: func(s string) { fmt.Fprintln(w, s) }}
	if f.count == "none" || f.count == "0" {
		return d, nil
	}
	n, err := strconv.Atoi(f.count)
	if err != nil || n < 0 || n > 100 {
		return d, &usageError{cmd, fmt.Errorf("--deltas %q: want none, or a number up to 100", f.count)}
	}
	d.Newest = n
	return d, nil
}

// deltaResult is what is told of a delta that was made.
type deltaResult struct {
	File    string  `json:"file"`
	Bytes   int     `json:"bytes"`
	Percent float64 `json:"percent"` // of the whole file
	// What applying it took.
	CPUSeconds float64 `json:"cpuSeconds"`
	Memory     int64   `json:"memoryBytes"`
}

func (r *releaseApp) deltaCommand() *cobra.Command {
	var out, edition, arch string
	cmd := &cobra.Command{
		Use: "delta FROM TO [--file FILE]", Short: "Make the small file between two OS files", Args: cobra.ExactArgs(2),
		Long: `Make the file out of which a machine with one OS file gets another, apply it as a
machine will, and compare the result. FROM and TO are OS files, build folders, or
versions in the repository. ` + "`wherry release publish`" + ` makes and signs deltas by itself;
this is for seeing what a change costs.

It takes Linux on amd64, since the old release's program applies it, and is made
smaller by some percent where the program xz is installed.`,
		Example: "  wherry release delta 12.0.0 12.1.0\n  wherry release delta old/wherry.efi build/core-amd64 --file one-line.delta",
		RunE: func(cmd *cobra.Command, args []string) error {
			var files [2][]byte
			for i, name := range args {
				var err error
				if files[i], err = publishing.OSFileOf(cmd.Context(), r.dir, edition, arch, name); err != nil {
					return err
				}
			}
			made, v, err := publishing.DeltaBetween(cmd.Context(), files[0], files[1], func(s string) { fmt.Fprintln(cmd.ErrOrStderr(), s) })
			if err != nil {
				return err
			}
			result := deltaResult{File: out, Bytes: len(made), Percent: float64(len(made)) / float64(len(files[1])) * 100, CPUSeconds: v.CPU, Memory: v.Memory}
			if out != "" {
				err = atomicfile.Write(out, made, 0o644)
			}
			return errors.Join(err, printDelta(cmd.OutOrStdout(), r.output, result))
		},
	}
	cmd.Flags().StringVar(&out, "file", "", "where to put it (default: nowhere)")
	cmd.Flags().StringVar(&edition, "edition", "core", "edition of versions")
	cmd.Flags().StringVar(&arch, "arch", "amd64", "architecture of versions")
	return cmd
}

func printDelta(w io.Writer, format string, d deltaResult) error {
	if format == "json" {
		return json.NewEncoder(w).Encode(d)
	}
	_, err := fmt.Fprintf(w, "%s: %s, %.2f percent of the whole file\napplying it took %.0f s of CPU and %d MB of memory, and gave the file\n",
		cmp.Or(d.File, "delta"), publishing.Size(int64(d.Bytes)), d.Percent, d.CPUSeconds, d.Memory>>20)
	return err
}
