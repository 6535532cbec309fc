// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Command wherry-init is PID 1 of a Wherry machine (package pid1), once wherry-early has
// found the root. Under the name modprobe it loads a kernel module and exits.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"wherry.example/wherry/internal/machine/pid1"
)

func main() {
	if err := run(os.Args); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) > 0 && filepath.Base(args[0]) == "modprobe" {
		return pid1.Modprobe(args[1:])
	}
	if os.Getpid() != 1 {
		return fmt.Errorf("wherry-init is the first process of a Wherry machine; it does nothing as process %d", os.Getpid())
	}
	pid1.Run()
	return nil
}
