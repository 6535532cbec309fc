// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Command xfstemplate makes the template of which package xfs makes file
// systems: it runs mkfs.xfs (xfsprogs 6.1 or newer) on a sparse file of 80 MB
// and keeps the blocks that are not zero.
//
//	xfstemplate OUTPUT
//
// The output is gzip over: the number of blocks (4 bytes, little-endian), then
// for each block its number (8 bytes) and its 4096 bytes.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const (
	blockSize  = 4096
	sizeBlocks = 20480 // 80 MiB: one allocation group that holds the smallest useful log
)

// options are explained in docs/decisions. The size of the log is fixed for
// the life of the file system; 4096-byte sectors work on every disk.
var options = []string{
	"-q", "-f", "--unsupported",
	"-s", "size=4096",
	"-m", "crc=1,finobt=1,reflink=1,rmapbt=0,bigtime=1,inobtcount=1,uuid=00000000-0000-4000-8000-000000000000",
	"-i", "sparse=1,nrext64=1",
	"-d", "agcount=1",
	"-l", "size=64m",
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "xfstemplate:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: xfstemplate OUTPUT")
	}
	image, err := makeImage()
	if err != nil {
		return err
	}
	packed, err := pack(image)
	if err != nil {
		return err
	}
	return os.WriteFile(args[0], packed, 0o644)
}

func makeImage() ([]byte, error) {
	dir, err := os.MkdirTemp("", "xfstemplate-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "image")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(path, sizeBlocks*blockSize); err != nil {
		return nil, err
	}
	cmd := exec.Command("mkfs.xfs", append(options, path)...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("mkfs.xfs: %w", err)
	}
	return os.ReadFile(path)
}

func pack(image []byte) ([]byte, error) {
	var body bytes.Buffer
	count := uint32(0)
	for offset := 0; offset < len(image); offset += blockSize {
		block := image[offset : offset+blockSize]
		if len(bytes.Trim(block, "\x00")) == 0 {
			continue
		}
		count++
		body.Write(binary.LittleEndian.AppendUint64(nil, uint64(offset/blockSize)))
		body.Write(block)
	}
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(append(binary.LittleEndian.AppendUint32(nil, count), body.Bytes()...)); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
