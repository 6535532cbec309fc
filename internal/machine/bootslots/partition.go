// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package bootslots

import (
	"errors"
	"fmt"

	"wherry.example/wherry/internal/disklayout"
	"wherry.example/wherry/internal/format/bootcount"
	"wherry.example/wherry/internal/format/efiload"
	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/linux/block"
	"wherry.example/wherry/internal/linux/efivar"
)

// What the loader says of this boot.
var (
	loaderInfo      = efivar.Name{Name: "LoaderInfo", Vendor: efivar.Loader}
	loaderPartition = efivar.Name{Name: "LoaderDevicePartUUID", Vendor: efivar.Loader}
	loaderSelected  = efivar.Name{Name: "LoaderEntrySelected", Vendor: efivar.Loader}
	loaderCounted   = efivar.Name{Name: "LoaderBootCountPath", Vendor: efivar.Loader}
)

// booted is what the loader said. It does not change while the machine is up.
type booted struct {
	partition string // GUID of the one that the loader lies on
	stem      string // of the OS file that was started
	trial     bool   // it was counted
}

// atBoot reads it, once. The caller holds mu.
func (s *Slots) atBoot() (*booted, error) {
	if s.booted != nil {
		return s.booted, nil
	}
	if err := s.variables.Open(); err != nil {
		return nil, fmt.Errorf("%w: it was not started by UEFI firmware", ErrUnsupported)
	}
	info, err := s.variables.Text(loaderInfo)
	id, errID := s.variables.Text(loaderPartition)
	selected, errSelected := s.variables.Text(loaderSelected)
	counted, errCounted := s.variables.Text(loaderCounted)
	if err := errors.Join(err, errID, errSelected, errCounted); err != nil {
		return nil, err
	}
	n, ok := bootcount.Parse(selected)
	if info == "" || id == "" || !ok {
		return nil, fmt.Errorf("%w: it was not started from a disk by systemd-boot", ErrUnsupported)
	}
	s.booted = &booted{partition: id, stem: n.Stem, trial: bootcount.Trial(selected, counted)}
	return s.booted, nil
}

// partition is the boot partition: for the kernel, and for the firmware.
type partition struct {
	device string
	place  efiload.Partition
}

// findPartition looks for a partition on all disks.
func findPartition(text string) (partition, error) {
	id, err := gpt.ParseGUID(text)
	if err != nil {
		return partition{}, err
	}
	disks, err := block.Lister{}.List()
	if err != nil {
		return partition{}, err
	}
	for _, d := range disks {
		if p, found, err := onDisk(d, id); found {
			return p, err
		}
	}
	return partition{}, errors.New("the disk that it was started from is not there")
}

// onDisk looks for it on one. A disk that can't be read is not the one.
func onDisk(d block.Disk, id gpt.GUID) (p partition, found bool, err error) {
	f, err := block.OpenReading(d.Path)
	if err != nil {
		return p, false, err
	}
	defer f.Close()
	t, err := gpt.Read(f, d.LogicalBytes, uint64(d.Bytes)/uint64(d.LogicalBytes))
	if err != nil {
		return p, false, err
	}
	for i, e := range t.Partitions {
		if e.ID != id {
			continue
		}
		if e.Type != gpt.TypeESP || e.Name != disklayout.BootName {
			return p, true, fmt.Errorf("the partition that it was started from is %q and not one of Wherry's", e.Name)
		}
		if d.ReadOnly {
			return p, true, errors.New("the disk that it was started from is read-only")
		}
		p.place = efiload.Partition{Number: uint32(i + 1), First: e.First, Blocks: e.Last + 1 - e.First, ID: e.ID}
		for _, known := range d.Partitions {
			if known.Number == i+1 {
				p.device = known.Path
				return p, true, nil
			}
		}
		return p, true, errors.New("the kernel does not see the boot partition")
	}
	return p, false, nil
}
