// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// StartError says why a machine did not become ready.
type StartError struct {
	Name string
	// Cause is the likely one, and what to do about it.
	Cause string
	// Console holds the last lines of the console, QEMU what QEMU printed.
	Console, QEMU string
	// Log is the file with the whole console.
	Log string
}

func (e *StartError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "machine %s did not become ready: %s", e.Name, e.Cause)
	if e.QEMU != "" {
		fmt.Fprintf(&b, "\nQEMU said:\n%s", indent(e.QEMU))
	}
	if e.Console != "" {
		fmt.Fprintf(&b, "\nlast lines of the console (all of it: %s):\n%s", e.Log, indent(e.Console))
	}
	return b.String()
}

func indent(text string) string {
	return "  | " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n  | ")
}

// cause is a pattern and what it tells. Earlier ones are more telling.
type cause struct {
	pattern *regexp.Regexp
	text    string
}

var qemuCauses = []cause{
	{regexp.MustCompile(`[Cc]ould not set up host forwarding rule '([^']*)'`), "a host port is in use ($1): choose another with -p"},
	{regexp.MustCompile(`Failed to get "?(?:write|shared "write")"? lock`), "a disk image is in use by another QEMU"},
	{regexp.MustCompile(`(?i)could not access KVM|failed to initialize kvm`), "KVM is not usable here any more: remove accelerator.json from wherry's cache directory and start again"},
	{regexp.MustCompile(`(?i)cannot (?:set up guest memory|allocate memory)`), "this computer has too little free memory: use a smaller --memory"},
	{regexp.MustCompile(`No space left on device`), "this computer's disk is full"},
	{regexp.MustCompile(`could not load kernel|invalid kernel header`), "the image's kernel is damaged: build it again with `wherry build`"},
	{regexp.MustCompile(`Could not open '([^']*)': (.*)`), "$1 cannot be opened: $2"},
}

var consoleCauses = []cause{
	{regexp.MustCompile(`(?i)(?:BdsDxe: failed to (?:load|start)|Error loading)[^\r\n]*(?:Access Denied|Security Violation)`), "Secure Boot refused what is on the disk: it is not signed by the owner of the firmware's keys, or was changed"},
	{regexp.MustCompile(`BdsDxe: No bootable option|BdsDxe: failed to (?:load|start)`), "the firmware found nothing on the disk that it could start"},
	{regexp.MustCompile(`No working init found|Failed to execute /init|Run /init as init process[^$]*error -`), "the initramfs holds no /init that runs: build the image again with `wherry build`"},
	{regexp.MustCompile(`Initramfs unpacking failed|write error(?s:.*)Kernel panic`), "the initramfs is damaged or does not fit into memory: use a larger --memory, or build the image again"},
	{regexp.MustCompile(`System is deadlocked on memory|Out of memory and no killable processes`), "the machine has too little memory: use a larger --memory"},
	{regexp.MustCompile(`wherry: boot failed: ([^\r\n]*)`), "the machine could not boot: $1"},
	{regexp.MustCompile(`Unable to mount root fs`), "the kernel found no initramfs it could use: build the image again with `wherry build`"},
	{regexp.MustCompile(`Attempted to kill init! exitcode=(\S+)`), "PID 1 of the machine ended (exit code $1): a bug in wherry-early or wherry-init, or a damaged image"},
	{regexp.MustCompile(`Kernel panic - not syncing: ([^\r\n]*)`), "the kernel panicked: $1"},
	{regexp.MustCompile(`Out of memory: Killed process \d+ \(([^)]*)\)`), "the machine has too little memory ($1 was killed): use a larger --memory"},
	{regexp.MustCompile(`(?s)panic: ([^\r\n]*)[\r\n].*goroutine \d+ \[`), "a program of the machine crashed: $1"},
	{regexp.MustCompile(`reboot: (?:Power down|System halted)`), "the machine switched itself off"},
	{regexp.MustCompile(`8254 timer not connected to IO-APIC`), "the kernel hung at its timer check, which happens under heavy load of this computer: start again"},
}

// likelyCause reads what QEMU and the console said.
func likelyCause(qemu, console string) string {
	for _, try := range []struct {
		causes []cause
		text   string
	}{{qemuCauses, qemu}, {consoleCauses, console}} {
		for _, c := range try.causes {
			if m := c.pattern.FindStringSubmatchIndex(try.text); m != nil {
				return string(c.pattern.ExpandString(nil, c.text, try.text, m))
			}
		}
	}
	return ""
}

// fatal tells whether the console shows something no machine recovers from by
// waiting, so that the start can be given up early. A kernel that firmware started is not the
// end when it panics: it restarts the machine, and the loader has an older release.
func fatal(console string) bool {
	ends := []string{"BdsDxe: No bootable option or device was found"}
	if !strings.Contains(console, "BdsDxe: starting ") {
		ends = append(ends, "Kernel panic - not syncing", "wherry: boot failed: ", "System is deadlocked on memory")
	}
	return slices.ContainsFunc(ends, func(end string) bool { return strings.Contains(console, end) })
}
