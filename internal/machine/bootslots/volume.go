// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package bootslots

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/format/fat"
	"wherry.example/wherry/internal/linux/block"
)

// slotsDir is where the loader looks for OS files.
const slotsDir = "EFI/Linux"

// maxFiles bounds what is read of a directory.
const maxFiles = 1024

// volume is the mounted boot partition.
type volume struct {
	root  string
	close func() error
}

// mountESP mounts the partition nowhere: it is reachable through a descriptor
// alone. So no container can hold it, and it is unmounted also when this
// process dies.
//
// With "dirsync" each change of a directory is on the disk before the next one
// begins, so that renaming never leaves a file without a name. With
// "errors=continue" the end of a file that a power cut left half written does
// not make the whole partition read-only when that file is removed.
func mountESP(p partition, write bool, load func(...string) error) (volume, error) {
	if err := load("vfat", "nls_cp437", "nls_ascii"); err != nil {
		return volume{}, err
	}
	for try := 0; ; try++ {
		fd, err := mountOnce(p.device, write)
		if err == nil {
			f := os.NewFile(uintptr(fd), "boot partition")
			return volume{root: fmt.Sprintf("/proc/self/fd/%d", fd), close: f.Close}, nil
		}
		// The mount before this one may be on its way out.
		if !errors.Is(err, unix.EBUSY) || try == 50 {
			return volume{}, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// reclaimClusters works on the partition while it is not mounted.
func reclaimClusters(p partition) (freed int64, err error) {
	d, err := block.OpenExclusive(p.device)
	for try := 0; errors.Is(err, unix.EBUSY) && try < 50; try++ {
		time.Sleep(20 * time.Millisecond) // as in mountESP
		d, err = block.OpenExclusive(p.device)
	}
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	freed, err = fat.Reclaim(d)
	return freed, errors.Join(err, d.Sync())
}

func mountOnce(device string, write bool) (int, error) {
	fs, err := unix.Fsopen("vfat", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("vfat: %w", err)
	}
	defer unix.Close(fs)
	options := [][2]string{{"source", device}, {"codepage", "437"}, {"iocharset", "ascii"}, {"umask", "077"}, {"tz", "UTC"}, {"errors", "continue"}}
	for _, o := range options {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return -1, fmt.Errorf("vfat option %s: %w", o[0], err)
		}
	}
	flags := []string{"dirsync"}
	attributes := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	if !write {
		flags = append(flags, "ro")
		attributes |= unix.MOUNT_ATTR_RDONLY
	}
	for _, f := range flags {
		if err := unix.FsconfigSetFlag(fs, f); err != nil {
			return -1, fmt.Errorf("vfat option %s: %w", f, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("%s: %w", device, err)
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attributes)
}

func (v volume) path(name string) string { return filepath.Join(v.root, slotsDir, name) }

// list reads the directory of OS files; one that does not exist is empty.
func (v volume) list() ([]file, error) {
	d, err := os.Open(v.path(""))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(maxFiles)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var out []file
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			out = append(out, file{e.Name(), info.Size()})
		}
	}
	return out, nil
}

// removeLeftovers removes what an interrupted writer left.
func (v volume) removeLeftovers() error {
	files, err := v.list()
	if err != nil {
		return err
	}
	for _, f := range files {
		if isLeftover(f) {
			err = errors.Join(err, v.remove(f.name))
		}
	}
	return err
}

func (v volume) remove(name string) error { return os.Remove(v.path(name)) }

// sync brings everything to the disk.
func (v volume) sync() error {
	d, err := os.Open(v.path(""))
	if err != nil {
		return err
	}
	defer d.Close()
	return errors.Join(d.Sync(), unix.Syncfs(int(d.Fd())))
}

// rename gives a file another name, and returns when that is on the disk.
func (v volume) rename(from, to string) error {
	f, err := os.OpenFile(v.path(from), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return v.renameOpen(f, from, to)
}

// renameOpen: the new name's entry holds where the contents begin and how long
// they are, and FAT writes that only when the file under its new name is
// written. Without the second fsync a power cut leaves a file of 0 bytes.
func (v volume) renameOpen(f *os.File, from, to string) error {
	if _, err := os.Lstat(v.path(to)); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is there already", to)
	}
	if err := os.Rename(v.path(from), v.path(to)); err != nil {
		return err
	}
	return errors.Join(f.Sync(), v.sync())
}

// free is how many bytes are left.
func (v volume) free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(v.path(""), &st); err != nil {
		return 0, fmt.Errorf("room on the boot partition: %w", err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// chunk is how much is copied between two looks at the context. FAT is slow with small ones.
const chunk = 1 << 20

// digest reads a file from the disk.
func (v volume) digest(ctx context.Context, name string) ([sha256.Size]byte, error) {
	f, err := os.Open(v.path(name))
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	defer f.Close()
	h := sha256.New()
	err = copyChunks(ctx, h, f, nil)
	return [sha256.Size]byte(h.Sum(nil)), err
}

// copyChunks copies to the end of r, and tells of each chunk.
func copyChunks(ctx context.Context, w io.Writer, r io.Reader, progress func(done int64)) error {
	buf := make([]byte, chunk)
	var done int64
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n, err := io.ReadFull(r, buf)
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		done += int64(n)
		if progress != nil && n > 0 {
			progress(done)
		}
		if ended(err) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// sameBytes compares two files to their ends.
func sameBytes(ctx context.Context, a, b io.Reader) (bool, error) {
	bufA, bufB := make([]byte, chunk), make([]byte, chunk)
	for {
		if err := ctx.Err(); err != nil {
			return false, context.Cause(ctx)
		}
		n, errA := io.ReadFull(a, bufA)
		m, errB := io.ReadFull(b, bufB)
		for _, err := range []error{errA, errB} {
			if err != nil && !ended(err) {
				return false, err
			}
		}
		if !bytes.Equal(bufA[:n], bufB[:m]) {
			return false, nil
		}
		if ended(errA) { // and so b, which has as much
			return true, nil
		}
	}
}

func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }
