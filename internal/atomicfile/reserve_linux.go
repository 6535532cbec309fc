// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// The reserve of a file system: files whose blocks are allocated already.
//
// Space that is set free on a full disk is gone before we can use it: a
// container that fills the disk takes it within milliseconds. So the blocks of
// a spare are never set free: the new content is written over them, and then
// the spare and the target swap their names. The target's old blocks become the
// spare, so that a reserve lasts for any number of records that do not grow.
const (
	reserveName = ".reserve"
	spares      = 16
	spareBytes  = 64 << 10
	// Two spares are for large records.
	largeSpares     = 2
	largeSpareBytes = 512 << 10
)

var (
	// reserving keeps writers from taking the same spare.
	reserving sync.Mutex
	// short says that a spare was used, and has to be replaced when there is room.
	short atomic.Bool
)

// Reserve sets space aside for the files below dir, or takes back what was
// used of it. Write uses it when the disk is full. An error means that there is
// less than there should be.
func Reserve(dir string) error {
	reserving.Lock()
	defer reserving.Unlock()
	reserve := filepath.Join(dir, reserveName)
	if err := os.MkdirAll(reserve, 0o700); err != nil {
		return fmt.Errorf("set space aside: %w", err)
	}
	for i := range spares {
		size := int64(spareBytes)
		if i < largeSpares {
			size = largeSpareBytes
		}
		if err := renew(filepath.Join(reserve, strconv.Itoa(i)), size); err != nil {
			short.Store(true)
			return fmt.Errorf("set space aside: %w", err)
		}
	}
	return nil
}

// renew makes a spare, unless a whole one is there.
func renew(path string, size int64) error {
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && info.Size() == size {
		return nil
	}
	tmp := path + "~"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
	}
	return err
}

// Allocate gives the beginning of a file blocks, and makes the file at least that
// long: what is written there later needs none, also on a full disk. It is for
// databases that write into their file. The content stays. A full disk is an
// error only when the file does not have the blocks already.
func Allocate(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("set space aside: %w", err)
	}
	// On a full disk XFS refuses this also for blocks that are there.
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) == nil && st.Size >= size && st.Blocks*512 >= size {
		return f.Close()
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("set space aside in %s: %w", path, err)
	}
	return nil
}

// isFull says that a write failed for want of space.
func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) }

// refill takes back what was used, when a write has shown that there is room.
func refill(path string) {
	if dir, ok := reserveOf(path); ok && short.Swap(false) {
		go Reserve(filepath.Dir(dir)) // what fails is tried again after the next write
	}
}

// reserveOf finds the reserve that is nearest above a file.
func reserveOf(path string) (string, bool) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", false
	}
	for dir := filepath.Dir(abs); ; dir = filepath.Dir(dir) {
		reserve := filepath.Join(dir, reserveName)
		if info, err := os.Lstat(reserve); err == nil && info.IsDir() {
			return reserve, true
		}
		if dir == filepath.Dir(dir) {
			return "", false
		}
	}
}

// writeReserved is Write on a full disk.
func writeReserved(path string, data []byte, perm os.FileMode) error {
	reserve, ok := reserveOf(path)
	if !ok {
		return errors.New("nothing is set aside for it")
	}
	reserving.Lock()
	defer reserving.Unlock()
	spare, err := findSpare(reserve, int64(len(data)))
	if err != nil {
		return err
	}
	short.Store(true)
	if err := overwrite(spare, data, perm); err != nil {
		return err
	}
	if err := swap(spare, path); err != nil {
		return err
	}
	return errors.Join(SyncDir(filepath.Dir(path)), SyncDir(reserve))
}

// findSpare returns the smallest spare with enough blocks.
func findSpare(reserve string, size int64) (string, error) {
	entries, err := os.ReadDir(reserve)
	if err != nil {
		return "", err
	}
	best, bestBytes := "", int64(0)
	for _, e := range entries {
		var st unix.Stat_t
		path := filepath.Join(reserve, e.Name())
		if unix.Lstat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Blocks*512 < max(size, 1) {
			continue
		}
		if best == "" || st.Blocks*512 < bestBytes {
			best, bestBytes = path, st.Blocks*512
		}
	}
	if best == "" {
		return "", errors.New("what was set aside for it is used up")
	}
	return best, nil
}

// overwrite does not truncate before it writes: that would set the blocks free.
func overwrite(spare string, data []byte, perm os.FileMode) (err error) {
	f, err := os.OpenFile(spare, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Truncate(int64(len(data))); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	return f.Sync()
}

// swap gives the spare the target's name, and the target's old content the spare's.
func swap(spare, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Rename(spare, path)
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("it is not a file: %w", fs.ErrExist)
	}
	return unix.Renameat2(unix.AT_FDCWD, spare, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
}
