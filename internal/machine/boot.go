// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"errors"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/machine/bootslots"
)

// boot is what the machine was started from, and what its firmware checked.
func (p *parts) boot() *wherryv1.Boot {
	b := &wherryv1.Boot{}
	switch s, err := p.slots.Running(); {
	case err == nil:
		b.Slot = &wherryv1.UpdateSlot{
			Version: s.Version, File: s.File, Bytes: uint64(s.Bytes), Running: s.Running, Trial: s.Trial,
			TriesLeft: uint32(s.TriesLeft), TriesDone: uint32(s.TriesDone), Bad: s.Bad,
		}
	case errors.Is(err, bootslots.ErrUnsupported):
		b.Unsupported = err.Error()
	default:
		p.note("which OS file runs", err)
	}
	if v, err := p.slots.VerifiedBoot(); err == nil && v.Firmware {
		b.Trust = p.verifiedBoot()
	}
	return b
}
