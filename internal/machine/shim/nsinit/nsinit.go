// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package nsinit is what the shim's program is when a container starts: its
// copy inside the container's namespaces, which mounts, drops rights and then
// becomes the container's program.
//
// Importing it is all. libcontainer executes this program again with the argument
// "init"; C code that runs before Go's runtime enters the namespaces, and this
// package's init, which imports nothing else, takes it from there before main and
// before what main alone needs is initialised.
package nsinit

import (
	"os"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // enters the namespaces before Go's runtime starts
)

func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		libcontainer.Init() // does not return
	}
}
