// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"errors"
	"fmt"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/machine/bootslots"
)

// boot is what the machine was started from, and what its firmware checked.
func (p *parts) boot() *wherryv1.Boot {
	s, err := p.slots.Running()
	b, err := startedFrom(p.storage.Medium(), s, err)
	p.note("which OS file runs", err)
	if v, err := p.slots.VerifiedBoot(); err == nil && v.Firmware {
		b.Trust = p.verifiedBoot()
	}
	return b
}

// startedFrom tells of the live medium, of the slot, or why there is none. What it returns as an error
// nobody can tell yet.
func startedFrom(medium string, s bootslots.Slot, err error) (*wherryv1.Boot, error) {
	switch {
	case medium != "": // on a stick there is a slot, which nobody replaces
		return &wherryv1.Boot{Unsupported: onMedium(medium)}, nil
	case errors.Is(err, bootslots.ErrUnsupported):
		return &wherryv1.Boot{Unsupported: err.Error()}, nil
	case err != nil:
		return &wherryv1.Boot{}, err
	}
	return &wherryv1.Boot{Slot: &wherryv1.UpdateSlot{
		Version: s.Version, File: s.File, Bytes: uint64(s.Bytes), Running: s.Running, Trial: s.Trial,
		TriesLeft: uint32(s.TriesLeft), TriesDone: uint32(s.TriesDone), Bad: s.Bad,
	}}, nil
}

// onMedium says what a live medium is for.
func onMedium(name string) string {
	return fmt.Sprintf("the live medium %s, which is never updated: wherry machine install puts it onto a disk", name)
}
