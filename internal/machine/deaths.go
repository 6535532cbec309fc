// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"os"

	"wherry.example/wherry/internal/linux/pstore"
)

// readDeaths asks why kernels before this one died, where they could tell: with
// UEFI firmware. It says so in the log and on the board, and takes the records out of the firmware.
func (p *parts) readDeaths() {
	if _, err := os.Stat("/sys/firmware/efi"); err != nil {
		return
	}
	p.note("what the last kernel left", p.modules.Load("efi_pstore"))
	if err := pstore.Mount(); err != nil {
		p.note("what the last kernel left", err)
		return
	}
	deaths, err := pstore.Take(pstore.Dir)
	p.note("what the last kernel left", err)
	for _, d := range deaths {
		p.Log.Error("a kernel died before this start", "kind", d.Kind, "reason", d.Reason, "at", d.Time)
		p.died = d.Kind + ": " + d.Reason
	}
	if p.died != "" {
		p.board.Set("kernel", true, "the one before this start died: "+p.died)
	}
}
