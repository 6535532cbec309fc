// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// rootDir is a directory that its contents cannot lead out of: the root of a
// container. Absolute symlinks are followed within it, as the container itself
// would see them. Every path is resolved by the kernel in one step, so that a
// container that changes its symlinks meanwhile gains nothing. os.Root is not
// used since it refuses absolute symlinks, which images are full of.
type rootDir struct{ f *os.File }

func openRootDir(dir string) (*rootDir, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open root", Path: dir, Err: err}
	}
	return &rootDir{os.NewFile(uintptr(fd), dir)}, nil
}

func (r *rootDir) Close() error { return r.f.Close() }

// open resolves a path within the root. flags are of open(2).
func (r *rootDir) open(name string, flags int, mode uint32) (*os.File, error) {
	rel := strings.TrimLeft(path.Clean("/"+name), "/")
	if rel == "" {
		rel = "."
	}
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Mode: uint64(mode), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(int(r.f.Fd()), rel, &how)
		if err == unix.EAGAIN || err == unix.EINTR {
			continue // a rename was under way; the kernel asks to be asked again
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: "/" + rel, Err: err}
		}
		return os.NewFile(uintptr(fd), "/"+rel), nil
	}
}

// openDir opens a directory for *at calls.
func (r *rootDir) openDir(name string) (*os.File, error) {
	return r.open(name, unix.O_PATH|unix.O_DIRECTORY, 0)
}

// openParent opens the directory that holds name, and says what it is called there.
func (r *rootDir) openParent(name string) (dir *os.File, base string, err error) {
	clean := path.Clean("/" + name)
	if clean == "/" {
		return nil, "", fmt.Errorf("the root has no parent")
	}
	dir, err = r.openDir(path.Dir(clean))
	return dir, path.Base(clean), err
}

// readFile reads a regular file of at most limit bytes.
func (r *rootDir) readFile(name string, limit int64) ([]byte, error) {
	seen, err := r.open(name, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer seen.Close()
	f, _, err := openRegular(seen)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return b, err
}

var errNotRegular = errors.New("not a regular file")

// openRegular opens for reading what an O_PATH descriptor stands for, after a
// look at it: to merely open a device that a container made can do harm (a
// watchdog begins to count), and a FIFO would hold us up.
func openRegular(seen *os.File) (f *os.File, st unix.Stat_t, err error) {
	if err := unix.Fstat(int(seen.Fd()), &st); err != nil {
		return nil, st, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, st, errNotRegular
	}
	f, err = os.Open(procPath(seen))
	return f, st, err
}

// mkdirAll makes a directory and its parents with the given owner; those that
// exist are left alone.
func (r *rootDir) mkdirAll(name string, mode uint32, uid, gid int) error {
	cur := "/"
	for _, part := range strings.Split(strings.Trim(path.Clean("/"+name), "/"), "/") {
		if part == "" {
			continue
		}
		dir, err := r.openDir(cur)
		if err != nil {
			return err
		}
		err = unix.Mkdirat(int(dir.Fd()), part, mode)
		if err == nil {
			err = unix.Fchownat(int(dir.Fd()), part, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
		} else if err == unix.EEXIST {
			err = nil
		}
		dir.Close()
		cur = path.Join(cur, part)
		if err != nil {
			return fmt.Errorf("make directory %s: %w", cur, err)
		}
	}
	d, err := r.openDir(name) // a file, or a symlink that leads nowhere, may be in the way
	if err != nil {
		return fmt.Errorf("make directory %s: %w", name, err)
	}
	return d.Close()
}

// procPath names an open file in a way that path-based calls accept.
func procPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }
