// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"strings"
	"testing"

	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/format/xfs"
)

const gib = 1 << 30

func disk(name, content string) place {
	return place{Disk: name, Name: name, Path: "/dev/" + name, Bytes: 8 * gib, Content: content}
}

func partition(disk, name, content string) place {
	return place{Disk: disk, Name: name, Path: "/dev/" + name, Partition: 1, Bytes: 7 * gib, Content: content}
}

func stateOn(p place) place {
	p.Content, p.Super = "xfs", xfs.Super{Label: Label, Intact: true}
	return p
}

func split(p place) place     { p.Split = true; return p }
func meantFor(p place) place  { p.Meant = true; return p }
func claimed(p place) place   { p.Claimed = true; return p }
func readOnly(p place) place  { p.ReadOnly = true; return p }
func removable(p place) place { p.Removable = true; return p }
func small(p place) place     { p.Bytes = 1 << 20; return p }
func boot(p place, room int64) place {
	p.Boot, p.Room = true, room
	return split(p)
}
func unreadable(p place) place {
	p.Content, p.Problem = "", "input/output error"
	return p
}
func torn(p place) place { p = stateOn(p); p.Super.Intact = false; return p }

func TestDecide(t *testing.T) {
	gptDisk := split(disk("vda", "gpt"))
	otherXFS := partition("vda", "vda1", "xfs")
	otherXFS.Super = xfs.Super{Label: "photos", Intact: true}
	for name, c := range map[string]struct {
		places  []place
		action  action
		place   string
		damaged bool
		says    string
	}{
		"no disk":                             {nil, useMemory, "", false, "no disk"},
		"an empty disk":                       {[]place{disk("vda", "empty")}, format, "vda", false, "empty"},
		"the first of two empty disks":        {[]place{disk("vda", "empty"), disk("vdb", "empty")}, format, "vda", false, ""},
		"the empty one beside data":           {[]place{disk("vda", "ext4"), disk("vdb", "empty")}, format, "vdb", false, ""},
		"only data":                           {[]place{disk("vda", "ext4"), disk("vdb", "data")}, useMemory, "", false, "vda holds data (ext4); vdb holds data (data)"},
		"state":                               {[]place{gptDisk, meantFor(stateOn(partition("vda", "vda1", "")))}, useState, "vda1", false, ""},
		"state on a whole disk":               {[]place{stateOn(disk("vda", ""))}, useState, "vda", false, ""},
		"state before an empty disk":          {[]place{disk("vda", "empty"), split(disk("vdb", "gpt")), stateOn(partition("vdb", "vdb1", ""))}, useState, "vdb1", false, ""},
		"two states":                          {[]place{stateOn(disk("vda", "")), stateOn(disk("vdb", ""))}, useState, "vda", false, "vdb holds the state of a machine too"},
		"a partition meant for it":            {[]place{gptDisk, meantFor(partition("vda", "vda2", "empty")), disk("vdb", "empty")}, format, "vda2", false, "meant"},
		"an empty partition not meant for it": {[]place{gptDisk, partition("vda", "vda1", "empty")}, useMemory, "", false, "gpt"},
		"a partitioned disk that reads empty": {[]place{split(disk("vda", "empty"))}, useMemory, "", false, "vda"},
		"interrupted on a disk":               {[]place{claimed(disk("vda", "gpt"))}, format, "vda", false, "interrupted"},
		"interrupted, file system there":      {[]place{claimed(stateOn(disk("vda", "")))}, format, "vda", false, "interrupted"},
		"interrupted in a partition":          {[]place{gptDisk, claimed(meantFor(partition("vda", "vda1", "data")))}, format, "vda1", false, "interrupted"},
		"interrupted before another empty":    {[]place{disk("vda", "empty"), claimed(disk("vdb", "gpt"))}, format, "vdb", false, ""},
		"somebody else's xfs":                 {[]place{gptDisk, otherXFS}, useMemory, "", false, "gpt"},
		"damaged superblock":                  {[]place{gptDisk, meantFor(torn(partition("vda", "vda1", ""))), disk("vdb", "empty")}, useMemory, "vda1", true, "damaged superblock"},
		"overwritten state partition":         {[]place{gptDisk, meantFor(partition("vda", "vda1", "data")), disk("vdb", "empty")}, useMemory, "vda1", true, "holds data"},
		"unreadable state partition":          {[]place{gptDisk, meantFor(unreadable(partition("vda", "vda1", ""))), disk("vdb", "empty")}, useMemory, "vda1", true, "cannot be read"},
		"read-only state":                     {[]place{readOnly(stateOn(disk("vda", ""))), disk("vdb", "empty")}, useMemory, "vda", true, "read-only"},
		"damaged beside a good one":           {[]place{gptDisk, meantFor(torn(partition("vda", "vda1", ""))), stateOn(disk("vdb", ""))}, useState, "vdb", false, ""},
		"an unreadable disk":                  {[]place{unreadable(disk("vda", ""))}, useMemory, "", false, "cannot be read"},
		"a read-only empty disk":              {[]place{readOnly(disk("vda", "empty"))}, useMemory, "", false, "read-only"},
		"a removable empty disk":              {[]place{removable(disk("sda", "empty"))}, useMemory, "", false, "removable"},
		"room behind the boot partition":      {[]place{disk("vda", "empty"), boot(disk("vdb", "gpt"), gib), partition("vdb", "vdb1", "vfat")}, format, "vdb", false, "room behind"},
		"state before room":                   {[]place{boot(disk("vda", "gpt"), gib), stateOn(disk("vdb", ""))}, useState, "vdb", false, ""},
		"no room behind the boot partition":   {[]place{boot(disk("vda", "gpt"), minBytes-1)}, useMemory, "", false, "make the disk larger"},
		"an empty disk beside too little":     {[]place{boot(disk("vda", "gpt"), 0), disk("vdb", "empty")}, format, "vdb", false, ""},
		"room on a removable disk":            {[]place{removable(boot(disk("sda", "gpt"), gib))}, useMemory, "", false, "removable"},
		"room on a read-only disk":            {[]place{readOnly(boot(disk("sda", "gpt"), gib))}, useMemory, "", false, "sda"},
		"a small empty disk":                  {[]place{small(disk("vda", "empty"))}, useMemory, "", false, "too small"},
	} {
		p := decide(c.places)
		if p.Action != c.action || p.Place.Name != c.place || p.Damaged != c.damaged {
			t.Errorf("%s: %v %q damaged=%v, want %v %q damaged=%v", name, p.Action, p.Place.Name, p.Damaged, c.action, c.place, c.damaged)
		}
		if said := p.Why + strings.Join(p.Warnings, ""); !strings.Contains(said, c.says) {
			t.Errorf("%s: says %q, want %q", name, said, c.says)
		}
	}
}

func TestStretch(t *testing.T) {
	table := func() *gpt.Table {
		t := &gpt.Table{BlockBytes: 512, Blocks: 8 * gib / 512}
		t.Partitions = []gpt.Partition{
			{Type: TypeGUID, First: 2048, Last: 4095},
			{Type: TypeGUID, First: 4096, Last: 8191},
		}
		return t
	}
	last := table()
	if !stretch(last, 1) || last.Partitions[1].Last != 8*gib/512-2048-1 {
		t.Errorf("the last partition: %+v", last.Partitions[1])
	}
	if stretch(last, 1) {
		t.Error("stretched twice")
	}
	if stretch(table(), 0) || stretch(table(), 2) {
		t.Error("stretched a partition that has no room, or none")
	}
}
