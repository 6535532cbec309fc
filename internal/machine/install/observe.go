// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package install

import (
	"bytes"
	"cmp"
	"errors"

	"wherry.example/wherry/internal/disklayout"
	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/linux/block"
)

// observe looks at all disks. booted is the GUID of the partition that the
// machine was started from, zero if it was none.
func (i *Installer) observe(booted gpt.GUID) ([]disk, error) {
	list, err := i.lister.List()
	if err != nil {
		return nil, err
	}
	var out []disk
	for _, b := range list {
		id := i.lister.Identify(b.Name)
		d := disk{
			Name: b.Name, Path: b.Path, Bytes: b.Bytes, BlockBytes: b.LogicalBytes, ReadOnly: b.ReadOnly, Removable: b.Removable,
			Model: id.Model, Serial: id.Serial,
			State: b.Name == i.StateDisk(), Busy: block.Busy(b.Path),
		}
		if err := look(b, booted, &d); err != nil {
			d.Problem = err.Error()
		}
		out = append(out, d)
	}
	return out, nil
}

// look reads what is on a disk.
func look(b block.Disk, booted gpt.GUID, d *disk) error {
	device, err := block.OpenReading(b.Path)
	if err != nil {
		return err
	}
	defer device.Close()
	content, err := block.Probe(device, b.Bytes)
	if err != nil {
		return err
	}
	if d.Content = content.Name; bytes.HasPrefix(content.Head, mark) {
		d.Content = contentUnfinished
		return nil
	}
	table, err := gpt.Read(device, b.LogicalBytes, uint64(b.Bytes)/uint64(b.LogicalBytes))
	if errors.Is(err, gpt.ErrNone) {
		table = &gpt.Table{}
	} else if err != nil {
		return err
	}
	for _, p := range b.Partitions {
		name := ""
		if p.Number >= 1 && p.Number <= len(table.Partitions) {
			name = table.Partitions[p.Number-1].Name
		}
		d.Partitions = append(d.Partitions, cmp.Or(printable(name), p.Name))
	}
	for _, p := range table.Partitions {
		d.Medium = d.Medium || !booted.IsZero() && p.ID == booted
	}
	if len(table.Partitions) > 0 && table.Partitions[0].Name == disklayout.BootName {
		d.Identity = table.Partitions[0].ID.String()
	}
	return nil
}

// printable leaves out what a terminal would act upon.
func printable(name string) string {
	out := []rune{}
	for _, r := range name {
		if r >= ' ' && r <= '~' {
			out = append(out, r)
		}
	}
	return string(out)
}
