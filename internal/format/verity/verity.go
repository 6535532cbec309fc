// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package verity builds the hash trees that the kernel's dm-verity checks a
// block device against: format version 1, SHA-256, blocks of 4096 bytes, no
// superblock. It reads data once, in order, and keeps 32 bytes for each block;
// it does no I/O of its own. veritysetup is the judge of its tests.
package verity

import (
	"crypto/sha256"
	"fmt"
)

// BlockBytes is the size of blocks of data and of hashes.
const BlockBytes = 4096

// Tree is a finished hash tree.
type Tree struct {
	Root   [sha256.Size]byte
	Salt   []byte
	Blocks int64 // of data
	// Hashes are the tree's blocks, the top first. One block of data has none: its hash is the root.
	Hashes []byte
}

// Builder takes data in and makes a Tree of it. It is an io.Writer of whole blocks.
type Builder struct {
	salt   []byte
	hashes []byte
	input  []byte // salt and one block, reused
}

// New begins a tree. The salt goes before every block.
func New(salt []byte) *Builder {
	return &Builder{salt: salt, input: append(append([]byte{}, salt...), make([]byte, BlockBytes)...)}
}

// Write takes the next blocks.
func (b *Builder) Write(p []byte) (int, error) {
	if len(p)%BlockBytes != 0 {
		return 0, fmt.Errorf("hash tree: %d bytes are no whole blocks of %d", len(p), BlockBytes)
	}
	b.hashes = b.digests(b.hashes, p)
	return len(p), nil
}

// digests appends the hash of each block.
func (b *Builder) digests(out, blocks []byte) []byte {
	for ; len(blocks) > 0; blocks = blocks[BlockBytes:] {
		copy(b.input[len(b.salt):], blocks[:BlockBytes])
		sum := sha256.Sum256(b.input)
		out = append(out, sum[:]...)
	}
	return out
}

// Tree ends the tree. Without any data there is none.
func (b *Builder) Tree() (Tree, error) {
	t := Tree{Salt: b.salt, Blocks: int64(len(b.hashes) / sha256.Size)}
	if t.Blocks == 0 {
		return t, fmt.Errorf("hash tree: there is no data")
	}
	level := b.hashes
	for len(level) > sha256.Size {
		padded := append(level, make([]byte, padding(len(level)))...)
		t.Hashes = append(append(make([]byte, 0, len(padded)+len(t.Hashes)), padded...), t.Hashes...)
		level = b.digests(nil, padded)
	}
	copy(t.Root[:], level)
	return t, nil
}

// padding fills the last block of a level.
func padding(n int) int { return (BlockBytes - n%BlockBytes) % BlockBytes }
