// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"errors"
	"fmt"
	"testing"

	"wherry.example/wherry/internal/machine/bootslots"
)

func TestStartedFrom(t *testing.T) {
	const live = "the live medium sr0, which is never updated: wherry machine install puts it onto a disk"
	slot, odd := bootslots.Slot{Version: "1.0.0", File: "wherry_1.0.0.efi", Running: true}, errors.New("odd")
	direct := fmt.Errorf("%w: it was not started by UEFI firmware", bootslots.ErrUnsupported)
	for name, c := range map[string]struct {
		medium     string
		slot       bootslots.Slot
		err        error
		file, says string
		cannotTell error
	}{
		"a disk":          {"", slot, nil, "wherry_1.0.0.efi", "", nil},
		"a CD":            {"sr0", bootslots.Slot{}, direct, "", live, nil},
		"a stick":         {"sr0", slot, nil, "", live, nil},
		"a hypervisor":    {"", bootslots.Slot{}, direct, "", direct.Error(), nil},
		"nobody can tell": {"", bootslots.Slot{}, odd, "", "", odd},
	} {
		b, err := startedFrom(c.medium, c.slot, c.err)
		if !errors.Is(err, c.cannotTell) || b.GetSlot().GetFile() != c.file || b.Unsupported != c.says {
			t.Errorf("%s: %v, %v", name, b, err)
		}
		if got := (slots{medium: c.medium}).Supported; c.medium != "" && (got() == nil || got().Error() != "it runs from "+live) {
			t.Errorf("%s: updates say %v", name, got())
		}
	}
}
