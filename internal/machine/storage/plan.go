// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"fmt"
	"strings"

	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/format/xfs"
)

// place is somewhere the state can be: a whole disk or a partition, as observed.
type place struct {
	Disk      string // name of the disk, vda
	Name      string // its own name: vda or vda1
	Path      string
	Partition int // number; 0 is the whole disk
	// ID and Label are those that the partition table has of it.
	ID        gpt.GUID
	Label     string
	Bytes     int64
	ReadOnly  bool
	Removable bool
	// Split tells a disk that the kernel sees partitions on.
	Split bool
	// Content is what was found: "empty", "xfs", "ext4", "data" …
	Content string
	// Super is the superblock where Content is "xfs".
	Super xfs.Super
	// Meant tells a partition whose type or name says that it is for the state.
	Meant bool
	// Claimed tells that Wherry began to format it and did not finish.
	Claimed bool
	// Boot tells a disk of Wherry's that holds the boot partition and nothing
	// else, Room how many bytes are free behind it.
	Boot bool
	Room int64
	// Problem is why it could not be read.
	Problem string
}

// action is what to do with a place.
type action int

const (
	useMemory action = iota
	useState
	format
)

// plan is what to do.
type plan struct {
	Action action
	Place  place
	// Damaged says that there is state which can't be used: memory is then an
	// emergency, not a choice.
	Damaged bool
	// Why is for people, as are the warnings.
	Why      string
	Warnings []string
}

// minBytes is the smallest place for state: the file system, its claim, and a
// partition table with its alignment.
const minBytes = xfs.MinBytes + 4<<20

// decide chooses: the state that exists; else a place that Wherry began to
// format; else a partition that is meant for it; else the room that a disk of
// Wherry's has behind its boot partition; else the first empty disk; else memory. Whatever holds data stays as it is. Damaged state is never
// passed over for an empty disk: that would be a machine without its memory
// that looks healthy.
func decide(places []place) plan {
	if p, ok := existing(places); ok {
		return p
	}
	if p, ok := damaged(places); ok {
		return p
	}
	for _, choice := range []struct {
		fits func(place) bool
		why  string
	}{
		{func(p place) bool { return p.Claimed }, "its formatting was interrupted"},
		{func(p place) bool { return p.Meant && p.Content == "empty" }, "the partition is meant for the state"},
		{func(p place) bool { return p.Room >= minBytes && !p.Removable }, "it has room behind the boot partition"},
		{func(p place) bool { return p.Partition == 0 && !p.Split && !p.Removable && p.Content == "empty" }, "the disk is empty"},
	} {
		for _, p := range places {
			if choice.fits(p) && writable(p) {
				return plan{Action: format, Place: p, Why: choice.why}
			}
		}
	}
	return plan{Why: whyMemory(places)}
}

func writable(p place) bool { return !p.ReadOnly && p.Problem == "" && p.Bytes >= minBytes }

// holdsState tells a whole file system of Wherry's.
func holdsState(p place) bool {
	return p.Content == "xfs" && p.Super.Label == Label && p.Super.Intact && !p.Claimed
}

func existing(places []place) (plan, bool) {
	var found []place
	for _, p := range places {
		if holdsState(p) && !p.ReadOnly {
			found = append(found, p)
		}
	}
	if len(found) == 0 {
		return plan{}, false
	}
	out := plan{Action: useState, Place: found[0], Why: "it holds the state"}
	for _, p := range found[1:] {
		out.Warnings = append(out.Warnings, fmt.Sprintf("%s holds the state of a machine too: %s is used, being the first; remove one of them", p.Name, found[0].Name))
	}
	return out, true
}

// damaged finds state that cannot be used.
func damaged(places []place) (plan, bool) {
	for _, p := range places {
		why := ""
		switch {
		case p.Claimed:
		case holdsState(p) && p.ReadOnly:
			why = "is read-only"
		case p.Content == "xfs" && p.Super.Label == Label:
			why = "has a damaged superblock"
		case p.Meant && p.Problem != "":
			why = "cannot be read: " + p.Problem
		case p.Meant && p.Content != "empty":
			why = fmt.Sprintf("holds %s instead of a state file system", p.Content)
		}
		if why != "" {
			return plan{Damaged: true, Place: p, Why: fmt.Sprintf("%s is meant for the state but %s; nothing on it was changed", p.Name, why)}, true
		}
	}
	return plan{}, false
}

// whyMemory tells what is the matter with each disk.
func whyMemory(places []place) string {
	var reasons []string
	for _, p := range places {
		if p.Partition != 0 {
			continue
		}
		switch {
		case p.Problem != "":
			reasons = append(reasons, fmt.Sprintf("%s cannot be read (%s)", p.Name, p.Problem))
		case p.Boot && p.Room < minBytes:
			reasons = append(reasons, fmt.Sprintf("%s has no room behind the boot partition: make the disk larger", p.Name))
		case p.Boot && p.Removable:
			reasons = append(reasons, p.Name+" is removable")
		case p.Content != "empty" || p.Split:
			reasons = append(reasons, fmt.Sprintf("%s holds data (%s)", p.Name, p.Content))
		case p.ReadOnly:
			reasons = append(reasons, p.Name+" is read-only")
		case p.Removable:
			reasons = append(reasons, p.Name+" is removable")
		default:
			reasons = append(reasons, p.Name+" is too small")
		}
	}
	if len(reasons) == 0 {
		return "there is no disk"
	}
	return strings.Join(reasons, "; ")
}
