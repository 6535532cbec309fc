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
	// LiveConfig is a configuration for who starts from the live medium.
	LiveConfig []byte
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
	b, err := c.boot()
	if err != nil {
		return err
	}
	files, err := b.Files()
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
		Bytes: disklayout.BootBytes, Start: start, Label: disklayout.VolumeLabel, Time: rootfs.Epoch,
		ID: binary.LittleEndian.Uint32(c.digest("volume")),
	}
	return fat.Format(io.NewOffsetWriter(w, start), volume, files)
}

// boot is what the ESP holds.
func (c Contents) boot() (disklayout.Boot, error) {
	b := disklayout.Boot{Version: c.Version, OS: c.OS, Loader: c.Loader, Enroll: c.Enroll, Config: c.LiveConfig}
	if c.Owner == nil {
		return b, nil
	}
	list := c.Owner.SignatureList(c.identity("owner"))
	b.Keys = map[string][]byte{}
	for _, v := range []pe.Variable{pe.PK, pe.KEK, pe.DB} {
		auth, err := c.Owner.AuthenticatedVariable(v, list, rootfs.Epoch)
		if err != nil {
			return b, err
		}
		b.Keys[string(v)+".auth"] = auth
	}
	return b, nil
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
