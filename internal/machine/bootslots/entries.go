// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package bootslots

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"

	"wherry.example/wherry/internal/format/efiload"
	"wherry.example/wherry/internal/linux/efivar"
)

const (
	// entryName is how the firmware's menu shows the machine.
	entryName = "Wherry"
	// loaderPath is a copy of the loader that other systems on the disk do not overwrite.
	loaderPath = `\EFI\systemd\systemd-bootx64.efi`
	// entryCount is how often the firmware comes back to the loader when a file
	// does not load: once for each try, and once more for the older file.
	entryCount = tries + 1
)

var (
	bootOrder = efivar.Name{Name: "BootOrder", Vendor: efivar.Global}
	oneShot   = efivar.Name{Name: "LoaderEntryOneShot", Vendor: efivar.Loader}
	chosen    = efivar.Name{Name: "LoaderEntryDefault", Vendor: efivar.Loader}
)

// bootEntries are the firmware's: Boot#### by number, and the order of trying.
type bootEntries struct {
	options map[uint16][]byte
	order   []uint16
}

// ensureEntries has the firmware try the loader four times in a row, and lets
// the loader choose by itself. The caller holds mu.
func (s *Slots) ensureEntries() error {
	p, err := s.partition()
	if err != nil {
		return err
	}
	return s.startFrom(p.place)
}

// StartFrom has the firmware start from a boot partition that was just made, on
// whatever disk, before anything else.
func (s *Slots) StartFrom(p efiload.Partition) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.variables.Open()
	if err == nil {
		err = s.startFrom(p)
	}
	if err != nil {
		return fmt.Errorf("have the firmware start from the new disk: %w", err)
	}
	return nil
}

func (s *Slots) startFrom(p efiload.Partition) error {
	have, err := s.readEntries()
	if err != nil {
		return err
	}
	want := efiload.Option{Active: true, Description: entryName, Partition: p, File: loaderPath}.Encode()
	plan, err := planEntries(have, want)
	if err != nil {
		return err
	}
	for _, n := range slices.Sorted(maps.Keys(plan.options)) {
		if err := s.variables.Write(optionName(n), plan.options[n]); err != nil {
			return err
		}
	}
	if err := s.variables.Write(bootOrder, encodeOrder(plan.order)); err != nil {
		return err
	}
	return s.forgetChoice()
}

// forgetChoice removes a choice that somebody made in the loader's menu or by
// other tools: it would come before a newer file, and before the good one.
func (s *Slots) forgetChoice() error {
	return errors.Join(s.variables.Delete(oneShot), s.variables.Delete(chosen))
}

func optionName(n uint16) efivar.Name {
	return efivar.Name{Name: fmt.Sprintf("Boot%04X", n), Vendor: efivar.Global}
}

func (s *Slots) readEntries() (bootEntries, error) {
	e := bootEntries{options: map[uint16][]byte{}}
	names, err := s.variables.List(efivar.Global)
	if err != nil {
		return e, err
	}
	for _, name := range names {
		n, ok := optionNumber(name)
		if !ok {
			continue
		}
		data, err := s.variables.Read(optionName(n))
		if err != nil {
			return e, err
		}
		e.options[n] = data
	}
	order, err := s.variables.Read(bootOrder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return e, err
	}
	e.order = decodeOrder(order)
	return e, nil
}

// optionNumber reads names such as Boot001A.
func optionNumber(name string) (uint16, bool) {
	if len(name) != 8 || name[:4] != "Boot" {
		return 0, false
	}
	n, err := strconv.ParseUint(name[4:], 16, 16)
	return uint16(n), err == nil && optionName(uint16(n)).Name == name
}

func decodeOrder(data []byte) (out []uint16) {
	for ; len(data) >= 2; data = data[2:] {
		out = append(out, binary.LittleEndian.Uint16(data))
	}
	return out
}

func encodeOrder(order []uint16) (out []byte) {
	for _, n := range order {
		out = binary.LittleEndian.AppendUint16(out, n)
	}
	return out
}

// planEntries returns the options to be written and the new order: four equal
// ones first, then what was there, each once. Options that are as they should be
// are used; so are, before new numbers, those of Wherry on a disk that was
// written anew since.
func planEntries(have bootEntries, want []byte) (bootEntries, error) {
	plan := bootEntries{options: map[uint16][]byte{}}
	var ours, stale []uint16
	for _, n := range slices.Sorted(maps.Keys(have.options)) {
		switch data := have.options[n]; {
		case bytes.Equal(data, want):
			ours = append(ours, n)
		case isStale(data, want):
			stale = append(stale, n)
		}
	}
	ours = ours[:min(len(ours), entryCount)]
	for n := 0; len(ours) < entryCount; {
		var number uint16
		switch {
		case len(stale) > 0:
			number, stale = stale[0], stale[1:]
		case n > 0xffff:
			return plan, errors.New("the firmware has no room for another boot entry")
		default:
			number = uint16(n)
			n++
			if have.options[number] != nil {
				continue
			}
		}
		plan.options[number] = want
		ours = append(ours, number)
	}
	plan.order = append(plan.order, ours...)
	for _, n := range have.order {
		if !slices.Contains(plan.order, n) {
			plan.order = append(plan.order, n)
		}
	}
	return plan, nil
}

// isStale tells an option for the loader of a Wherry disk at the very place of this one.
func isStale(data, want []byte) bool {
	o, err := efiload.Parse(data)
	w, errWant := efiload.Parse(want)
	if err != nil || errWant != nil || o.Description != entryName || o.File != w.File {
		return false
	}
	o.Partition.ID = w.Partition.ID
	return o.Partition == w.Partition
}
