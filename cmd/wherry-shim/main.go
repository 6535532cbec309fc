// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// wherry-shim holds all containers of a machine. See package shim. Called with other
// words it applies a delta of an update, as a process of its own. See package repack.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"

	_ "wherry.example/wherry/internal/machine/shim/nsinit" // is this program inside of containers

	"wherry.example/wherry/internal/machine/rebuild/repack"
	"wherry.example/wherry/internal/machine/shim"
)

// libcontainer sends a thread into each new container's mount namespace and
// lets it end there. The first thread can't end: it would stay, and keep a
// container's mounts for ever. So it belongs to main alone.
func init() { runtime.LockOSThread() }

func main() {
	if len(os.Args) > 1 && repack.Is(os.Args[1]) {
		if err := repack.Run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "wherry-shim:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) < 2 || os.Args[1] != "serve" {
		fmt.Fprintln(os.Stderr, "usage: wherry-shim serve [--state DIR] [--reaped FILE]")
		os.Exit(2)
	}
	var o shim.Options
	flags := flag.NewFlagSet("wherry-shim serve", flag.ExitOnError)
	flags.StringVar(&o.Dir, "state", "/run/wherry/shim", "directory of the socket and of what is known of containers")
	flags.StringVar(&o.Reaped, "reaped", "/run/wherry/reaped", "PID 1's record of the processes it reaped")
	flags.Parse(os.Args[2:]) // exits on errors
	if err := shim.Run(o); err != nil {
		fmt.Fprintln(os.Stderr, "wherry-shim:", err)
		os.Exit(1)
	}
}
