// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"os"
	"slices"

	"github.com/klauspost/compress/gzip"

	"wherry.example/wherry/internal/format/gnutar"
	"wherry.example/wherry/internal/format/ova"
	"wherry.example/wherry/internal/format/vhd"
	"wherry.example/wherry/internal/format/vmdk"
	"wherry.example/wherry/internal/host/rootfs"
)

// Sizes of the disks that importers make of an image without being told. They
// leave room for some state, so that a machine whose disk nobody made larger
// keeps its identity all the same. In the file that room takes nothing; in a
// VHD, which is as long as its disk, it takes as little as can be.
const (
	vhdBytes  = 1 << 30
	vmdkBytes = 8 << 30
	gceBytes  = 1 << 30 // Google wants whole GiB
)

// The appliance's hardware.
const (
	applianceCPUs      = 2
	applianceMemoryMiB = 1024
)

// WriteVHD makes the file anew with the disk in it, as Azure and Hyper-V have disks.
func WriteVHD(path string, c Contents) error {
	return writeFile(path, func(f *os.File) error {
		size := vhd.Round(vhdBytes)
		footer, err := vhd.Footer(size, [16]byte(c.digest("vhd")), rootfs.Epoch)
		if err != nil {
			return err
		}
		if err := c.write(f, size); err != nil {
			return err
		}
		_, err = f.WriteAt(footer, size)
		return err
	})
}

// WriteVMDK makes the file anew with the disk in it, as VMware has disks.
func WriteVMDK(path string, c Contents) error {
	return writeFile(path, func(f *os.File) error {
		data, err := c.vmdk("wherry.vmdk")
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		return err
	})
}

func (c Contents) vmdk(name string) ([]byte, error) {
	d, err := c.disk(vmdkBytes)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	id := binary.LittleEndian.Uint32(c.digest("vmdk")) &^ 1 // all ones would be "none"
	err = vmdk.Write(&b, d, vmdk.Options{Bytes: vmdkBytes, Name: name, ID: id})
	return b.Bytes(), err
}

// WriteOVA makes the file anew with a virtual machine in it that has the disk.
func WriteOVA(path string, c Contents) error {
	return writeFile(path, func(f *os.File) error {
		data, err := c.vmdk("wherry.vmdk")
		if err != nil {
			return err
		}
		return ova.Write(f, ova.Appliance{
			Name: "wherry", Version: c.Version, CPUs: applianceCPUs, MemoryMiB: applianceMemoryMiB,
			Disk: data, DiskBytes: vmdkBytes, UsedBytes: int64(len(c.OS)), Time: rootfs.Epoch,
		})
	})
}

// WriteGCE makes the file anew with the disk in it, as Google's cloud imports disks.
func WriteGCE(path string, c Contents) error {
	return writeFile(path, func(f *os.File) error {
		d, err := c.disk(gceBytes)
		if err != nil {
			return err
		}
		z := gzip.NewWriter(f)
		err = gnutar.Write(z, gnutar.File{Name: "disk.raw", Bytes: gceBytes, Time: rootfs.Epoch, Data: d.ranges()}, d)
		return errors.Join(err, z.Close())
	})
}

// ranges are where pages were written, as few as there can be.
func (s *sparse) ranges() []gnutar.Range {
	var out []gnutar.Range
	for _, page := range slices.Sorted(maps.Keys(s.pages)) {
		at := page * pageBytes
		n := min(pageBytes, s.size-at)
		if last := len(out) - 1; last >= 0 && out[last].Offset+out[last].Bytes == at {
			out[last].Bytes += n
		} else {
			out = append(out, gnutar.Range{Offset: at, Bytes: n})
		}
	}
	return out
}

// Blank tells that nothing was written there.
func (s *sparse) Blank(offset, n int64) bool {
	if n > pageBytes*int64(len(s.pages)) {
		for page := range s.pages {
			if at := page * pageBytes; at < offset+n && at+pageBytes > offset {
				return false
			}
		}
		return true
	}
	for page := offset / pageBytes; page*pageBytes < offset+n; page++ {
		if s.pages[page] != nil {
			return false
		}
	}
	return true
}
