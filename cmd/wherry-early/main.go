// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Command wherry-early is /init of the initramfs: it mounts the root image that
// lies beside it, makes it the root, and becomes its /sbin/init (cmd/wherry-init).
//
// It reads the kernel's command line (flags.go), /modules/order, and the modules that
// are named there, and gives the memory of all of them back. When a step fails it tells on
// all consoles which one and why, and the machine restarts after half a minute,
// or does what wherry.onfail says. It must never end: the kernel panics when it does.
//
// It is written to run without Go's runtime, which would be nine tenths of it:
// the kernel enters it at entry (entry_amd64.s) with the one stack that it has. So it
// allocates nothing, calls nothing outside of this package, not even what the
// compiler calls for it, and keeps within the bounds of its arrays where the compiler can see that.
// TestCallsNothing holds it to that; build.yaml and docs/decisions/0022 tell how the runtime
// is left out. Built in the ordinary way it does the same with a runtime.
package main

func main() { start() }

// start does the boot's first part. It does not return.
func start() {
	if call(sysGetpid, 0, 0, 0, 0, 0) != 1 {
		log.file = 2
		say("", "wherry-early is the first process of a Wherry machine, and does nothing as another one", nil, 0)
		call(sysExitGroup, 1, 0, 0, 0, 0)
	}
	kernelFileSystems()
	lastWords()
	loadModules()
	mountRoot()
	giveBack()
	switchRoot()
	become()
}
