// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package osimage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/atomicfile"
	"wherry.example/wherry/internal/format/verity"
	"wherry.example/wherry/internal/linux/dm"
	"wherry.example/wherry/internal/linux/loop"
)

// deviceName is the verified device's, for the device mapper.
const deviceName = "wherry-os-image"

// chunkBytes is how much is read at once.
const chunkBytes = 256 << 10

// errDamaged says that the file had the image's name and not its content.
var errDamaged = errors.New("the copy of the OS image on the state disk was damaged")

// image is the one in memory.
type image struct {
	device string // /dev/loop0
	bytes  int64
	name   string // of its file: tells images apart, proves nothing
	tree   verity.Tree
}

// move puts the root on the state disk. After an error it is where it was and
// nothing is left of the attempt but a good file.
func (m *Image) move(ctx context.Context, device string, bytes int64) error {
	if err := m.options.Modules("dm_mod", "dm_verity"); err != nil {
		return err
	}
	img, err := readImage(ctx, "/dev/"+device, bytes)
	if err != nil {
		return err
	}
	control, err := dm.Open()
	if err != nil {
		return err
	}
	defer control.Close()
	if err := control.Remove(deviceName); err != nil { // of a wherryd that died half-way
		return err
	}
	path := filepath.Join(m.dir(), img.name)
	fresh, err := m.store(ctx, img, path)
	if err != nil {
		return err
	}
	err = attach(ctx, control, img, path)
	if !fresh && errors.Is(err, unix.EIO) {
		if again := write(ctx, img, path); again != nil {
			return fmt.Errorf("%w, and could not be written again: %w", errDamaged, again)
		}
		return errDamaged
	}
	return err
}

// readImage reads the image in memory once.
func readImage(ctx context.Context, device string, bytes int64) (image, error) {
	salt := make([]byte, 32)
	rand.Read(salt)
	sum, tree := crc32.New(crc32.MakeTable(crc32.Castagnoli)), verity.New(salt)
	if err := readAll(ctx, device, bytes, io.MultiWriter(sum, tree)); err != nil {
		return image{}, fmt.Errorf("read the OS image in memory: %w", err)
	}
	t, err := tree.Tree()
	return image{device, bytes, fmt.Sprintf("%d-%08x.squashfs", bytes, sum.Sum32()), t}, err
}

// readAll reads a block device past all caches, so that nothing of it stays in memory.
func readAll(ctx context.Context, device string, bytes int64, w io.Writer) error {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	chunk, err := unix.Mmap(-1, 0, chunkBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned, as O_DIRECT wants it
	if err != nil {
		return err
	}
	defer unix.Munmap(chunk)
	for done := int64(0); done < bytes; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.ReadAt(chunk[:min(chunkBytes, bytes-done)], done)
		if err != nil {
			return err
		}
		if _, err := w.Write(chunk[:n]); err != nil {
			return err
		}
		done += int64(n)
	}
	return nil
}

// store makes sure that a file of the image's name is there, and no other.
func (m *Image) store(ctx context.Context, img image, path string) (fresh bool, err error) {
	if err := os.Mkdir(m.dir(), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return false, fmt.Errorf("make room for the OS image: %w", err)
	}
	entries, err := os.ReadDir(m.dir())
	if err != nil {
		return false, fmt.Errorf("look for the OS image: %w", err)
	}
	for _, e := range entries {
		if e.Name() != img.name {
			if err := os.RemoveAll(filepath.Join(m.dir(), e.Name())); err != nil {
				return false, fmt.Errorf("remove an old OS image: %w", err)
			}
		}
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && info.Size() >= img.bytes {
		return false, nil
	}
	return true, write(ctx, img, path)
}

// write copies the image to a file, whole or not at all.
func write(ctx context.Context, img image, path string) (err error) {
	tmp := filepath.Join(filepath.Dir(path), atomicfile.TempPrefix+filepath.Base(path))
	defer func() {
		if err != nil {
			err = fmt.Errorf("copy the OS image to the state disk: %w", err)
			os.Remove(tmp)
		}
	}()
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := readAll(ctx, img.device, img.bytes, f); err != nil {
		return err
	}
	if err := settle(f); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}

// settle brings a file to the disk and out of memory.
func settle(f *os.File) error {
	if err := f.Sync(); err != nil {
		return err
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// writeTree puts this boot's hash tree behind the image. It need not outlive
// the boot: the next one makes its own.
func writeTree(img image, path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(img.tree.Hashes, img.bytes); err != nil {
		return err
	}
	if err := f.Truncate(img.bytes + int64(len(img.tree.Hashes))); err != nil {
		return err
	}
	return settle(f)
}

// attach makes the verified device of the file, lets the kernel check every
// block of it, and puts it below the root.
func attach(ctx context.Context, control dm.Control, img image, path string) (err error) {
	if err := writeTree(img, path); err != nil {
		return fmt.Errorf("write the OS image's hash tree: %w", err)
	}
	file, err := os.Open(path) // for reading only: the state can then be made read-only at the end
	if err != nil {
		return err
	}
	defer file.Close()
	lower, err := loop.AttachUncached(file, verity.BlockBytes)
	if err != nil {
		return err
	}
	defer lower.Close()
	v := dm.Verity{Device: lower.Name(), Blocks: img.tree.Blocks, BlockBytes: verity.BlockBytes, Root: img.tree.Root[:], Salt: img.tree.Salt}
	device, err := control.Create(deviceName, v.Target())
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, control.Remove(deviceName))
		}
	}()
	if err := readAll(ctx, device, img.bytes, io.Discard); err != nil {
		return fmt.Errorf("check the copy of the OS image: %w", err)
	}
	v.Panic = true
	if err := control.Replace(deviceName, v.Target()); err != nil {
		return err
	}
	return change(img.device, device)
}

func change(root, verified string) error {
	f, err := os.Open(verified)
	if err != nil {
		return err
	}
	defer f.Close()
	return loop.Change(root, f)
}
