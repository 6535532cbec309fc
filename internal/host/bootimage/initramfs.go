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
// It needs mksquashfs (4.5 or newer) and zstd on the host, and no root.
package bootimage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"

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

// earlyOptions are how the early part is packed. A machine packs it again, byte for byte, when a
// delta changes it (docs/decisions/0015), in 24 MB of memory: that is what the logarithms
// are for. internal/host/differ and internal/libzstd know the same numbers.
var earlyOptions = []string{"--ultra", "-22", "--zstd=wlog=23,clog=22,hlog=21", "--single-thread", "--no-check", "-q", "-c"}

// compressedCPIO returns the tree as a cpio in a zstd frame, padded with zeros
// to four bytes: the kernel skips zeros between archives and wants an
// uncompressed archive to begin at a multiple of four.
func compressedCPIO(tree *rootfs.Tree) ([]byte, error) {
	var plain, complaint bytes.Buffer
	if err := writeCPIO(&plain, tree); err != nil {
		return nil, err
	}
	cmd := exec.Command("zstd", append(earlyOptions, fmt.Sprintf("--stream-size=%d", plain.Len()))...)
	cmd.Stdin, cmd.Stderr = &plain, &complaint
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, errors.New("zstd is missing: install zstd 1.5 or newer")
	}
	if err != nil {
		return nil, fmt.Errorf("zstd: %w: %s", err, bytes.TrimSpace(complaint.Bytes()))
	}
	return append(out, make([]byte, -len(out)&3)...), nil
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
