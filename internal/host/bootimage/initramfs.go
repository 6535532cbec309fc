// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package bootimage packs trees into what the kernel boots: the root image
// (squashfs) and the initramfs around it.
//
// The initramfs is two cpio archives, one after the other. The first is zstd
// and holds /init and the few modules that it needs; the second is not
// compressed a second time and holds root.squashfs, which /init loop-mounts.
// So the kernel copies the root once and unpacks only the small part, and the
// OS stays compressed in memory. Both outputs depend on nothing but the trees:
// equal input gives equal bytes.
//
// It needs mksquashfs (4.5 or newer) on the host and no root.
package bootimage

import (
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"wherry.example/wherry/internal/format/cpio"
	"wherry.example/wherry/internal/host/rootfs"
)

// rootName is where /init finds the root image.
const rootName = "root.squashfs"

// Initramfs writes the initramfs of an early tree and a packed root.
func Initramfs(w io.Writer, early *rootfs.Tree, root []byte) error {
	packed, err := compressedCPIO(early)
	if err != nil {
		return fmt.Errorf("pack the early part of the initramfs: %w", err)
	}
	if _, err := w.Write(packed); err != nil {
		return err
	}
	rest := &rootfs.Tree{}
	if err := rest.File(rootName, 0o444, root); err != nil {
		return err
	}
	return writeCPIO(w, rest)
}

// compressedCPIO returns the tree as a cpio in a zstd frame, padded with zeros
// to four bytes: the kernel skips zeros between archives and wants an
// uncompressed archive to begin at a multiple of four.
func compressedCPIO(tree *rootfs.Tree) ([]byte, error) {
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	if err := writeCPIO(z, tree); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	for out.Len()%4 != 0 {
		out.WriteByte(0)
	}
	return out.Bytes(), nil
}

func writeCPIO(w io.Writer, tree *rootfs.Tree) error {
	c := cpio.NewWriter(w)
	for _, e := range tree.Entries() {
		data := e.Data
		if e.Target != "" {
			data = []byte(e.Target)
		}
		h := cpio.Header{
			Name: e.Path, Mode: rootfs.UnixMode(e.Mode), Time: rootfs.Epoch,
			Size: int64(len(data)), Major: e.Major, Minor: e.Minor,
		}
		if err := c.WriteHeader(h); err != nil {
			return err
		}
		if _, err := c.Write(data); err != nil {
			return err
		}
	}
	return c.Close()
}
