// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package disk

import (
	"encoding/binary"
	"io"
	"os"

	"wherry.example/wherry/internal/disklayout"
	"wherry.example/wherry/internal/format/fat"
	"wherry.example/wherry/internal/format/gpt"
	"wherry.example/wherry/internal/format/iso9660"
	"wherry.example/wherry/internal/host/rootfs"
)

// minLiveBytes is the smallest FAT32, with the smallest clusters.
const minLiveBytes = 34 << 20

// WriteISO makes the file anew with a live medium in it.
//
// Firmware that finds it on a CD reads the boot catalog, which leads to the
// ESP; firmware that finds it on a disk or stick reads the partition table,
// which leads to the same ESP. The CD's directories name the files inside of
// the ESP, so that the OS file is there once and found either way.
func WriteISO(path string, c Contents) error { return writeFile(path, c.writeISO) }

func (c Contents) writeISO(f *os.File) error {
	b, err := c.boot()
	if err != nil {
		return err
	}
	files := b.LiveFiles()
	t := disklayout.Live(c.identity("live disk"), c.identity("live partition"), liveBytes(files))
	start := int64(t.Partitions[0].First) * blockBytes
	volume := fat.Options{
		Bytes: liveBytes(files), Start: start, Label: disklayout.VolumeLabel, Time: rootfs.Epoch, ClusterBytes: 512,
		ID: binary.LittleEndian.Uint32(c.digest("live volume")),
	}
	offsets, err := fat.Offsets(volume, files)
	if err != nil {
		return err
	}
	disc, err := liveDisc(files, offsets, start, int64(t.Blocks)*blockBytes).Encode()
	if err != nil {
		return err
	}
	writes, err := t.Writes()
	if err != nil {
		return err
	}
	if err := f.Truncate(int64(t.Blocks) * blockBytes); err != nil {
		return err
	}
	for _, w := range append(writes, gpt.Write{Offset: iso9660.Start, Data: disc}) {
		if _, err := f.WriteAt(w.Data, w.Offset); err != nil {
			return err
		}
	}
	return fat.Format(io.NewOffsetWriter(f, start), volume, files)
}

// liveBytes is how large the ESP is: whole MiB, with what tables and directories need.
func liveBytes(files []fat.File) int64 {
	const mebibyte = 1 << 20
	var sum int64 = mebibyte
	for _, f := range files {
		sum += int64(len(f.Data)) + 4096
	}
	sum += sum / 512 * 2 * 4 // two tables of four bytes for each cluster
	return max((sum+mebibyte-1)/mebibyte*mebibyte, minLiveBytes)
}

// liveDisc is the CD whose files are those of the ESP at start.
func liveDisc(files []fat.File, offsets map[string]int64, start, size int64) iso9660.Volume {
	v := iso9660.Volume{
		Label: disklayout.LiveLabel, Time: rootfs.Epoch,
		Blocks: uint32(size / iso9660.BlockBytes), Boot: uint32(start / iso9660.BlockBytes),
	}
	for _, f := range files {
		at := start + offsets[f.Path]
		v.Files = append(v.Files, iso9660.File{Path: f.Path, Block: uint32(at / iso9660.BlockBytes), Bytes: uint32(len(f.Data))})
	}
	return v
}
