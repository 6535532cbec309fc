// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package disk lays out the disks that machines boot from, and writes them as
// files of several kinds.
//
// A disk has a GUID partition table with one partition, the ESP: the boot
// loader, its settings, and the OS file. The machine adds the partition for its
// state at its first boot, in whatever room the disk has behind that, so the
// same image fits every disk. Files are sparse. Equal contents give equal
// bytes: identities are made of the OS file's hash.
//
// The live medium (iso.go) is a CD and a disk in the same bytes. The machine
// takes no part of it for its state.
//
// It needs no root, no loop devices and no programs.
package disk

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"wherry.example/wherry/internal/disklayout"
	"wherry.example/wherry/internal/format/fat"
	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/format/pe"
	"wherry.example/wherry/internal/format/qcow2"
	"wherry.example/wherry/internal/host/rootfs"
)

const (
	blockBytes = 512
	// Bytes is the size of a disk where the format asks for no other: the table, the ESP, and the
	// table's copy, each aligned.
	Bytes = disklayout.BootBytes + 2*gpt.Alignment
	// slots is how many OS files the ESP has room for: the one that runs, the
	// one before it, and the one that is being written.
	slots = 3
)

// Contents are what goes onto a disk.
type Contents struct {
	Version string
	OS      []byte // the UKI
	Loader  []byte // systemd-boot
	// Owner's keys are put beside the loader to be enrolled; nil: none.
	Owner *pe.Signer
	// Enroll has the loader enrol them by itself where the firmware is in setup
	// mode; else its menu offers it.
	Enroll bool
}

// WriteRaw makes the file anew with the disk in it.
func WriteRaw(path string, c Contents) error {
	return writeFile(path, func(f *os.File) error {
		if err := f.Truncate(Bytes); err != nil {
			return err
		}
		return c.write(f, Bytes)
	})
}

// WriteQCOW2 makes the file anew with the disk in it, as QEMU has disks.
func WriteQCOW2(path string, c Contents) error {
	return writeFile(path, func(f *os.File) error {
		d, err := c.disk(Bytes)
		if err != nil {
			return err
		}
		return qcow2.Write(f, d, Bytes)
	})
}

// writeFile makes a file anew.
func writeFile(path string, write func(*os.File) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return fmt.Errorf("write disk image %s: %w", path, err)
	}
	return nil
}

// disk is the whole disk in memory, of a size that the format asks for.
func (c Contents) disk(size int64) (*sparse, error) {
	d := &sparse{size: size}
	return d, c.write(d, size)
}

// write lays a disk of that size out where zeros are.
func (c Contents) write(w io.WriterAt, size int64) error {
	files, err := c.files()
	if err != nil {
		return err
	}
	t := disklayout.Fresh(c.identity("disk"), c.identity("boot partition"), blockBytes, uint64(size)/blockBytes)
	writes, err := t.Writes()
	if err != nil {
		return err
	}
	for _, part := range writes {
		if _, err := w.WriteAt(part.Data, part.Offset); err != nil {
			return err
		}
	}
	start := int64(t.Partitions[0].First) * blockBytes
	volume := fat.Options{
		Bytes: disklayout.BootBytes, Start: start, Label: "WHERRY", Time: rootfs.Epoch,
		ID: binary.LittleEndian.Uint32(c.digest("volume")),
	}
	return fat.Format(io.NewOffsetWriter(w, start), volume, files)
}

// files of the ESP of a disk.
func (c Contents) files() ([]fat.File, error) {
	const reserve = 4 << 20 // for tables, and what else the firmware puts there
	if need := slots*len(c.OS) + 2*len(c.Loader) + reserve; need > disklayout.BootBytes {
		return nil, fmt.Errorf("an OS file of %d bytes is too large: the boot partition of %d must have room for %d of them", len(c.OS), disklayout.BootBytes, slots)
	}
	files, err := c.liveFiles()
	return append(files, fat.File{Path: "EFI/systemd/systemd-bootx64.efi", Data: c.Loader}), err
}

// liveFiles are those of the ESP that nothing is ever added to.
func (c Contents) liveFiles() ([]fat.File, error) {
	files := []fat.File{
		{Path: "EFI/BOOT/BOOTX64.EFI", Data: c.Loader},
		{Path: OSPath(c.Version), Data: c.OS},
		{Path: "loader/loader.conf", Data: []byte(c.settings())},
	}
	if c.Owner == nil {
		return files, nil
	}
	list := c.Owner.SignatureList(c.identity("owner"))
	for _, v := range []pe.Variable{pe.PK, pe.KEK, pe.DB} {
		auth, err := c.Owner.AuthenticatedVariable(v, list, rootfs.Epoch)
		if err != nil {
			return nil, err
		}
		files = append(files, fat.File{Path: "loader/keys/auto/" + string(v) + ".auth", Data: auth})
	}
	return files, nil
}

// OSPath is where an OS file lies in the ESP. A file that was not tried yet
// has a count of tries in its name; the one of a fresh disk has none, since
// there is no older one to go back to.
func OSPath(version string) string { return "EFI/Linux/wherry_" + version + ".efi" }

// settings of systemd-boot: start the newest OS file at once, and let nobody
// change the command line.
func (c Contents) settings() string {
	text := "timeout 0\neditor no\n"
	if c.Enroll {
		text += "secure-boot-enroll force\n"
	}
	return text
}

func (c Contents) digest(what string) []byte {
	h := sha256.New()
	h.Write([]byte("wherry " + what + "\x00"))
	h.Write(c.OS)
	return h.Sum(nil)
}

func (c Contents) identity(what string) gpt.GUID {
	return gpt.RandomGUID([16]byte(c.digest(what)))
}
