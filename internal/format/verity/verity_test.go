// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package verity

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// TestVeritysetup lets cryptsetup's tool judge trees of no, one, two and three levels.
func TestVeritysetup(t *testing.T) {
	tool, err := exec.LookPath("veritysetup")
	if err != nil {
		if _, err := os.Stat("/usr/sbin/veritysetup"); err != nil {
			t.Fatal("veritysetup is missing: tools/setup.sh test installs it")
		}
		tool = "/usr/sbin/veritysetup"
	}
	for _, blocks := range []int{2, 127, 128, 129, 3339, 128*128 + 1} {
		data := noise(blocks)
		tree := build(t, []byte("0123456789abcdef0123456789abcdef"), data)
		if err := verify(t, tool, data, tree); err != nil {
			t.Errorf("%d blocks: %v", blocks, err)
		}
		data[len(data)/2] ^= 1
		if verify(t, tool, data, tree) == nil {
			t.Errorf("%d blocks: a changed bit was not seen", blocks)
		}
	}
}

func verify(t *testing.T, tool string, data []byte, tree Tree) error {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(file, append(bytes.Clone(data), tree.Hashes...), 0o600); err != nil {
		t.Fatal(err)
	}
	return exec.Command(tool, "verify", "--no-superblock", "--format=1", "--hash=sha256", "--salt="+hex.EncodeToString(tree.Salt),
		"--data-blocks="+strconv.FormatInt(tree.Blocks, 10), "--hash-offset="+strconv.Itoa(len(data)), file, file, hex.EncodeToString(tree.Root[:])).Run()
}

func build(t *testing.T, salt, data []byte) Tree {
	t.Helper()
	b := New(salt)
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 64*BlockBytes)
		if _, err := b.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	tree, err := b.Tree()
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func noise(blocks int) []byte {
	out := make([]byte, blocks*BlockBytes)
	source := rand.NewChaCha8([32]byte{1})
	source.Read(out)
	return out
}

func TestOneBlock(t *testing.T) {
	tree := build(t, nil, make([]byte, BlockBytes))
	// sha256 of 4096 zeros.
	if got := hex.EncodeToString(tree.Root[:]); got != "ad7facb2586fc6e966c004d7d1d16b024f5805ff7cb47c7a85dabd8b48892ca7" || len(tree.Hashes) != 0 {
		t.Errorf("%s with %d bytes of hashes", got, len(tree.Hashes))
	}
}

func TestRefuses(t *testing.T) {
	b := New(nil)
	if _, err := b.Write(make([]byte, 100)); err == nil {
		t.Error("half a block was taken")
	}
	if _, err := b.Tree(); err == nil {
		t.Error("there is a tree of nothing")
	}
}
