// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package efiload reads and makes the load options of UEFI firmware (the
// variables Boot0000 …) as far as they name a file of a disk's partition.
// Options of other kinds are read too, without their place. Nothing here does I/O.
package efiload

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf16"

	"wherry.example/wherry/internal/format/efitext"
	"wherry.example/wherry/internal/format/gpt"
)

var little = binary.LittleEndian

const (
	// active options are tried by the firmware.
	active = 1

	mediaType     = 4
	hardDrive     = 1
	filePath      = 4
	endType       = 0x7f
	hardDriveSize = 42

	// maxBytes bounds an option that is read, maxNodes the steps of its path.
	maxBytes = 1 << 16
	maxNodes = 64
)

// Option is a program that the firmware can start.
type Option struct {
	Active      bool
	Description string
	// Partition and File say where the program is; File is empty where the
	// option names none of a GUID partition's.
	Partition Partition
	File      string // \EFI\…
}

// Partition of a disk with a GUID partition table, by which the firmware finds
// the disk however it is attached.
type Partition struct {
	Number        uint32
	First, Blocks uint64
	ID            gpt.GUID
}

// Encode makes the variable's contents.
func (o Option) Encode() []byte {
	path := o.Partition.node()
	path = append(path, node(mediaType, filePath, efitext.Encode(o.File))...)
	path = append(path, endType, 0xff, 4, 0)
	attributes := uint32(0)
	if o.Active {
		attributes = active
	}
	out := little.AppendUint32(nil, attributes)
	out = little.AppendUint16(out, uint16(len(path)))
	out = append(out, efitext.Encode(o.Description)...)
	return append(out, path...)
}

func (p Partition) node() []byte {
	body := little.AppendUint32(nil, p.Number)
	body = little.AppendUint64(body, p.First)
	body = little.AppendUint64(body, p.Blocks)
	body = append(body, p.ID[:]...)
	return node(mediaType, hardDrive, append(body, 2, 2)) // a GUID partition table, known by a GUID
}

func node(kind, sub byte, body []byte) []byte {
	return append(little.AppendUint16([]byte{kind, sub}, uint16(4+len(body))), body...)
}

// Parse reads a variable's contents.
func Parse(data []byte) (Option, error) {
	if len(data) < 8 || len(data) > maxBytes {
		return Option{}, fmt.Errorf("load option of %d bytes", len(data))
	}
	o := Option{Active: little.Uint32(data)&active != 0}
	length := int(little.Uint16(data[4:]))
	description, rest, err := cutText(data[6:])
	if err != nil {
		return Option{}, fmt.Errorf("load option: %w", err)
	}
	o.Description = description
	if length > len(rest) {
		return Option{}, errors.New("load option: its path is longer than the option")
	}
	return o, o.parsePath(rest[:length])
}

// parsePath looks for a partition and a file on it. What else there is (the
// controller before the partition, a network) is stepped over.
func (o *Option) parsePath(path []byte) error {
	for range maxNodes {
		if len(path) < 4 {
			return errors.New("load option: its path does not end")
		}
		size := int(little.Uint16(path[2:]))
		if size < 4 || size > len(path) {
			return fmt.Errorf("load option: a step of its path has %d bytes", size)
		}
		kind, sub, body := path[0], path[1], path[4:size]
		switch {
		case kind == endType:
			return nil
		case kind == mediaType && sub == hardDrive && size == hardDriveSize && body[37] == 2:
			o.Partition = Partition{little.Uint32(body), little.Uint64(body[4:]), little.Uint64(body[12:]), gpt.GUID(body[20:36])}
		case kind == mediaType && sub == filePath && !o.Partition.ID.IsZero():
			o.File, _, _ = cutText(body)
		}
		path = path[size:]
	}
	return errors.New("load option: its path has too many steps")
}

func cutText(data []byte) (s string, rest []byte, err error) {
	var units []uint16
	for ; len(data) >= 2; data = data[2:] {
		u := little.Uint16(data)
		if u == 0 {
			return string(utf16.Decode(units)), data[2:], nil
		}
		units = append(units, u)
	}
	return "", nil, errors.New("a text does not end")
}
