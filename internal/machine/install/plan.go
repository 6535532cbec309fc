// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package install

import (
	"fmt"
	"slices"
	"strings"
)

// disk is one that the machine has, as observed.
type disk struct {
	Name, Path    string
	Bytes         int64
	BlockBytes    int
	Model, Serial string
	ReadOnly      bool
	Removable     bool
	Content       string // "empty", "gpt", "ext4" …
	Partitions    []string
	Medium        bool // the machine was started from it
	State         bool // it holds the machine's state
	Busy          bool // it is mounted or otherwise held
	Problem       string
	// Identity is that of the boot partition, where it is one of Wherry's.
	Identity string
}

// Contents that this package knows beside those that package block names.
const (
	contentEmpty      = "empty"
	contentUnfinished = "unfinished" // an installation of ours that was cut off
)

// minBytes is the smallest disk: the boot partition and a state worth the name.
const minBytes = 1 << 30

// hopeless tells why a disk cannot be installed onto, whatever is on it.
func (d disk) hopeless() string {
	switch {
	case d.Medium:
		return "the machine was started from it"
	case d.State:
		return "it holds the state of this machine"
	case d.Problem != "":
		return "it cannot be read: " + d.Problem
	case d.Busy:
		return "it is in use"
	case d.ReadOnly:
		return "it is read-only"
	case d.Bytes < minBytes:
		return fmt.Sprintf("it is too small: %d MiB, and at least %d are needed", d.Bytes>>20, minBytes>>20)
	case d.BlockBytes != 512:
		return fmt.Sprintf("its blocks have %d bytes: firmware finds the boot partition only on disks that can do 512", d.BlockBytes)
	}
	return ""
}

// holdsData tells that something would be lost.
func (d disk) holdsData() bool {
	return len(d.Partitions) > 0 || d.Content != contentEmpty && d.Content != contentUnfinished
}

// describe names what would be lost.
func (d disk) describe() string {
	if len(d.Partitions) > 0 {
		return fmt.Sprintf("%s with the partitions %s", d.Content, strings.Join(d.Partitions, ", "))
	}
	return d.Content
}

// Selectors other than a disk's name. They choose among the disks on which
// nothing would be lost.
const (
	selectFirst    = "first"
	selectSmallest = "smallest"
	selectLargest  = "largest"
	selectSerial   = "serial:"
)

// Refused is why nothing was written: the disk is not one to write to.
type Refused string

func (r Refused) Error() string { return string(r) }

func refusef(format string, args ...any) error { return Refused(fmt.Sprintf(format, args...)) }

// choose finds the disk that was asked for, if it may be written.
func choose(disks []disk, selector string, wipe bool) (disk, error) {
	switch selector {
	case "":
		return disk{}, refusef("no disk is named: `wherry machine disks` lists them")
	case selectFirst, selectSmallest, selectLargest:
		if wipe {
			return disk{}, refusef("to be wiped a disk must be named, by its name or serial number, and not by %q", selector)
		}
		return chooseAny(disks, selector)
	}
	d, err := named(disks, selector)
	if err != nil {
		return disk{}, err
	}
	if why := d.hopeless(); why != "" {
		return disk{}, refusef("disk %s cannot be installed onto: %s", d.Name, why)
	}
	if d.holdsData() && !wipe {
		return disk{}, refusef("disk %s holds data (%s): all of it would be lost; --wipe allows that", d.Name, d.describe())
	}
	return d, nil
}

func chooseAny(disks []disk, selector string) (disk, error) {
	usable := slices.DeleteFunc(slices.Clone(disks), func(d disk) bool { return d.hopeless() != "" || d.holdsData() || d.Removable })
	if len(usable) == 0 {
		return disk{}, refusef("there is no disk on which nothing would be lost: `wherry machine disks` says what is on them")
	}
	bySize := func(a, b disk) int { return int((a.Bytes - b.Bytes) >> 20) }
	switch selector {
	case selectSmallest:
		return slices.MinFunc(usable, bySize), nil
	case selectLargest:
		return slices.MaxFunc(usable, bySize), nil
	}
	return usable[0], nil
}

// named finds one disk by name, path or serial number.
func named(disks []disk, selector string) (disk, error) {
	serial, bySerial := strings.CutPrefix(selector, selectSerial)
	name := strings.TrimPrefix(selector, "/dev/")
	var found []disk
	var names []string
	for _, d := range disks {
		names = append(names, d.Name)
		if bySerial && serial != "" && d.Serial == serial || !bySerial && d.Name == name {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return disk{}, refusef("there is no disk %s; there are: %s", selector, strings.Join(names, ", "))
	}
	return disk{}, refusef("%d disks say that their serial number is %s: name one", len(found), serial)
}
