// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package atomicfile replaces small files so that a power cut leaves either
// the old content or the new, whole.
//
// The order is: write a temporary file in the same directory, fsync it, rename
// it over the target, fsync the directory. When Write returns nil, the new
// content is on the disk. On an error the target still has its old content and
// the temporary file is gone. A power cut can leave a temporary file behind:
// its name begins with TempPrefix, and readers of directories skip such names.
// This order is not safe on vfat (see the facts about the ESP).
//
// A full disk must not keep a machine from writing down what it does to make
// room. Reserve sets space aside at the top of a file system, and Write uses it
// when there is none left. It is taken back when there is room again.
package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// TempPrefix begins the name of every temporary file.
const TempPrefix = ".wherry-tmp-"

// IsTemp tells whether a directory entry is a leftover of an interrupted Write.
func IsTemp(name string) bool { return strings.HasPrefix(name, TempPrefix) }

// Write replaces path by a file that holds data. The permission bits are perm
// exactly, whatever the umask.
func Write(path string, data []byte, perm os.FileMode) error {
	err := replace(path, data, perm)
	switch {
	case err == nil:
		refill(path)
	case isFull(err):
		if reserved := writeReserved(path, data, perm); reserved != nil {
			return fmt.Errorf("%w; %w", err, reserved)
		}
		return nil
	}
	return err
}

func replace(path string, data []byte, perm os.FileMode) error {
	dir := filepath.Dir(path)
	tmp, err := writeTemp(dir, data, perm)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(tmp)))
	}
	if err := SyncDir(dir); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// SyncDir makes the directory's entries durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// Some network and FUSE file systems cannot sync a directory and say EINVAL;
	// there is nothing more to be done there.
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}

func writeTemp(dir string, data []byte, perm os.FileMode) (name string, err error) {
	f, err := os.CreateTemp(dir, TempPrefix+"*")
	if err != nil {
		return "", err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return "", err
	}
	if err := f.Chmod(perm); err != nil {
		return "", err
	}
	return f.Name(), f.Sync()
}
