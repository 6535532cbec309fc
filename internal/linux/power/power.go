// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package power restarts and stops the machine, and hears its power button.
package power

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// End is how a machine's run ends.
type End int

const (
	Restart End = iota
	Off
)

func (e End) String() string {
	if e == Off {
		return "power off"
	}
	return "restart"
}

// Do ends the run at once: nothing is synced or unmounted. It returns only on failure.
func (e End) Do() error {
	cmd := unix.LINUX_REBOOT_CMD_RESTART
	if e == Off {
		cmd = unix.LINUX_REBOOT_CMD_POWER_OFF
	}
	return fmt.Errorf("%s: %w", e, unix.Reboot(cmd))
}

// CtrlAltDelSignals makes Ctrl-Alt-Delete send SIGINT to PID 1 instead of resetting the machine.
func CtrlAltDelSignals() error {
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		return fmt.Errorf("take over ctrl-alt-delete: %w", err)
	}
	return nil
}
