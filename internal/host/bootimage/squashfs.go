// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package bootimage

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"wherry.example/wherry/internal/host/rootfs"
)

// compression is how the root image is packed; docs/decisions/0002 has the
// measurements behind it.
var compression = []string{"-comp", "zstd", "-Xcompression-level", "22", "-b", "256K"}

// fixed are the options that make equal trees equal bytes. Everything belongs to
// root, which for the root directory itself only -all-root brings about: 4.5.1
// gives it to whoever builds, whatever -root-uid says.
var fixed = []string{
	"-tar", "-quiet", "-no-progress", "-no-xattrs", "-reproducible", "-noappend", "-no-exports",
	"-root-mode", "755", "-all-root",
}

// keepRoots is how many packed roots stay in the cache.
const keepRoots = 8

// Squashfs packs the tree with mksquashfs into a file of the cache, and returns
// its path. The file is found again by the hash of the tree, the options and
// the version of mksquashfs.
func Squashfs(ctx context.Context, tree *rootfs.Tree, cache string, progress func(string)) (string, error) {
	version, err := squashfsVersion(ctx)
	if err != nil {
		return "", err
	}
	var tar bytes.Buffer
	if err := tree.WriteTar(&tar); err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%q\n%q\n", version, compression, fixed)
	h.Write(tar.Bytes())
	dir := filepath.Join(cache, "root")
	file := filepath.Join(dir, hex.EncodeToString(h.Sum(nil))+".squashfs")
	// What is in use shall not be what prune takes for old. Where there is no such file, it is made.
	if now := time.Now(); os.Chtimes(file, now, now) == nil {
		return file, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	progress("root: packing")
	if err := pack(ctx, &tar, file); err != nil {
		return "", fmt.Errorf("pack root.squashfs: %w", err)
	}
	return file, prune(dir, keepRoots)
}

func squashfsVersion(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "mksquashfs", "-version").Output()
	if errors.Is(err, exec.ErrNotFound) {
		return "", errors.New("mksquashfs is missing: install squashfs-tools 4.5 or newer")
	}
	// mksquashfs 4.5 exits with 1 after printing its version.
	line, _, _ := strings.Cut(string(out), "\n")
	if line == "" {
		return "", fmt.Errorf("ask mksquashfs for its version: %w", err)
	}
	return line, nil
}

func pack(ctx context.Context, tar *bytes.Buffer, file string) error {
	// A folder of its own: mksquashfs appends to a file that another build has begun.
	dir, err := os.MkdirTemp(filepath.Dir(file), "packing-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tmp := filepath.Join(dir, "root")
	epoch := fmt.Sprint(rootfs.Epoch.Unix())
	// The tar file cannot tell the time of the root directory, and -root-time does not reach it (4.5.1).
	args := slices.Concat([]string{"-", tmp}, fixed, compression, []string{"-mkfs-time", epoch, "-all-time", epoch})
	cmd := exec.CommandContext(ctx, "mksquashfs", args...)
	cmd.Env = environmentWithout("SOURCE_DATE_EPOCH")
	cmd.Stdin = bufio.NewReader(tar)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mksquashfs: %w: %s", err, bytes.TrimSpace(out))
	}
	return os.Rename(tmp, file)
}

// environmentWithout drops a variable: mksquashfs refuses to be told the time twice.
func environmentWithout(name string) []string {
	return slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, name+"=") })
}

// abandoned is the age of a folder whose build has died.
const abandoned = time.Hour

// prune removes all but the newest files of a cache directory. Another build
// may do the same at the same time.
func prune(dir string, keep int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var files []os.FileInfo
	for _, e := range entries {
		fi, err := e.Info()
		switch {
		case err != nil: // it is gone
		case !fi.IsDir():
			files = append(files, fi)
		case time.Since(fi.ModTime()) > abandoned:
			if err := os.RemoveAll(filepath.Join(dir, fi.Name())); err != nil {
				return err
			}
		}
	}
	slices.SortFunc(files, func(a, b os.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for _, fi := range files[min(keep, len(files)):] {
		if err := os.Remove(filepath.Join(dir, fi.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
