// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"strings"
	"testing"

	"wherry.example/wherry/internal/vmtest"
)

// TestLockdown boots a kernel that takes signed modules only, as it will with
// Secure Boot: modules are then loaded as the distribution signed them.
func TestLockdown(t *testing.T) {
	u := vmtest.NewUser(t)
	m := vmtest.Start(t, vmtest.Options{Config: u.Config(), Cmdline: "lockdown=integrity wherry.debug"})
	u.Knows(m)
	log := u.Run("machine", "log", "--kernel")
	if !strings.Contains(log, "Kernel is locked down") {
		t.Errorf("the kernel is not locked down:\n%s", log)
	}
	if strings.Contains(log, "tainting kernel") {
		t.Errorf("a module without its signature was loaded:\n%s", log)
	}
	if !strings.Contains(log, "wherry-early: load kernel module squashfs") {
		t.Errorf("wherry.debug does not show the first steps:\n%s", log)
	}
	if got := m.Ready().State; got != "persistent" {
		t.Errorf("state is %s: XFS was not loaded", got)
	}
}
