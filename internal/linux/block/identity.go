// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package block

import (
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Identity is what a disk says of itself, to be told from others by people.
// What it does not say is empty.
type Identity struct{ Model, Serial string }

// maxIdentity bounds each text.
const maxIdentity = 64

// Identify asks the kernel for what it knows of a disk's make.
func (l Lister) Identify(disk string) Identity {
	id := Identity{
		Model:  clean(l.text("block", disk, "device", "model")),
		Serial: clean(l.text("block", disk, "serial") + l.text("block", disk, "device", "serial")),
	}
	// Of SATA and SAS disks the kernel keeps SCSI's page of the serial number: four bytes, then the text.
	if page := l.text("block", disk, "device", "vpd_pg80"); id.Serial == "" && len(page) > 4 {
		id.Serial = clean(page[4:])
	}
	if vendor := clean(l.text("block", disk, "device", "vendor")); vendor != "" && vendor != "ATA" && !strings.HasPrefix(vendor, "0x") {
		id.Model = clean(vendor + " " + id.Model)
	}
	return id
}

// text is the beginning of a file of /sys; one that cannot be read is empty.
func (l Lister) text(parts ...string) string {
	f, err := os.Open(l.sys(parts...))
	if err != nil {
		return ""
	}
	defer f.Close()
	data, _ := io.ReadAll(io.LimitReader(f, 256))
	return string(data)
}

// clean keeps what can be shown on a screen.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, text)
	text = strings.TrimSpace(text)
	return text[:min(len(text), maxIdentity)]
}

// Busy tells that a disk, or a partition of it, is mounted or otherwise held.
func Busy(path string) bool {
	f, err := os.OpenFile(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		return errors.Is(err, unix.EBUSY)
	}
	f.Close()
	return false
}

// DropCache forgets what was read and written, so that the next read is of the
// disk itself.
func (d *Device) DropCache() error { return d.ioctl(unix.BLKFLSBUF, nil) }
