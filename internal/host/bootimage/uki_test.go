// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package bootimage

import (
	"strings"
	"testing"
)

// The value is that of `systemd-measure calculate --phase=:` of systemd 252 for these sections.
func TestPCR11(t *testing.T) {
	u := UKI{Kernel: []byte(strings.Repeat("L", 5000)), Initramfs: []byte("I\n"), OSRelease: "ID=x\n", Cmdline: "quiet", Release: "6.12"}
	const want = "688a64e56c28f7a658447ef022591d9a0288986821b30e48d75e5b0b4e901148"
	if got := u.PCR11(); got != want {
		t.Errorf("PCR 11 is %s, want %s", got, want)
	}
}

func TestUKIRefusesOtherStubs(t *testing.T) {
	if _, err := (UKI{Stub: []byte("MZ")}).Build(); err == nil {
		t.Error("something that is no program was taken for the stub")
	}
}
