// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"io"
	"os"
	"path/filepath"

	"wherry.example/wherry/internal/disklayout"
	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/format/iso9660"
	"wherry.example/wherry/internal/linux/efivar"
)

// A live medium is for looking at a computer, for mending and installing it:
// what was started from one neither formats a disk nor takes up the state that
// it finds on one, which is that of the machine that is installed there. It is
// not enough that such a medium is there, since it may have been forgotten in
// its drive: the boot stub tells which partition it was started from. From a CD
// it was started from none; then the CD must be there.

// origin is where the firmware says that the OS file was loaded from.
type origin struct {
	stub      bool     // there was a boot stub that could tell
	partition gpt.GUID // zero: a CD, or the network
}

func observeOrigin(v efivar.Variables) (o origin) {
	stub, err := v.Text(efivar.Name{Name: "StubInfo", Vendor: efivar.Loader})
	if err != nil || stub == "" {
		return o
	}
	text, err := v.Text(efivar.Name{Name: "LoaderDevicePartUUID", Vendor: efivar.Loader})
	if err == nil && text != "" {
		o.partition, err = gpt.ParseGUID(text)
	}
	// Whatever cannot be read is not a live medium.
	o.stub = err == nil
	return o
}

// needsDrive tells that a CD may have been what it was started from.
func (o origin) needsDrive() bool { return o.stub && o.partition.IsZero() }

// live tells whether the machine was started from a live medium, and what it is
// called. sure is false while one that is not seen yet could still come.
func (o origin) live(places []place, drives []string) (medium string, sure bool) {
	switch {
	case !o.stub:
		return "", true
	case o.needsDrive():
		for _, path := range drives {
			if isLiveDisc(path) {
				return filepath.Base(path), true
			}
		}
		return "", false
	}
	for _, p := range places {
		if p.ID == o.partition {
			if p.Label == disklayout.LiveName {
				return p.Disk, true
			}
			return "", true
		}
	}
	return "", false
}

// isLiveDisc reads the label of a CD. A drive without one cannot be opened.
func isLiveDisc(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 72)
	if _, err := f.ReadAt(head, iso9660.Start); err != nil && err != io.EOF {
		return false
	}
	const label = disklayout.LiveLabel + " "
	return string(head[1:6]) == "CD001" && string(head[40:40+len(label)]) == label
}

// drives are the drives for CDs.
func drives() []string {
	paths, _ := filepath.Glob("/dev/sr[0-9]*")
	return paths
}
