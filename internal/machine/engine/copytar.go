// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// unpackTar writes entries below dir of the root. Every entry's directory is
// resolved anew within the root, so neither symlinks of the archive nor those
// that the container makes meanwhile lead out of it.
func unpackTar(ctx context.Context, root *rootDir, dir string, archive io.Reader) error {
	r := tar.NewReader(archive)
	for n := 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return ctx.Err()
		}
		if err != nil {
			return errorf(KindInvalid, "read the archive: %w", err)
		}
		if n > maxCopyEntries {
			return errorf(KindInvalid, "the archive has more than %d entries", maxCopyEntries)
		}
		if err := errors.Join(ctx.Err(), checkEntryName(h.Name), checkEntryName(h.Linkname)); err != nil {
			return err
		}
		if err := unpackEntry(root, dir, h, r); err != nil {
			return fmt.Errorf("unpack %.200q: %w", h.Name, err)
		}
	}
}

func unpackEntry(root *rootDir, dir string, h *tar.Header, content io.Reader) error {
	name := entryPath(dir, h.Name)
	if path.Clean(name) == path.Clean("/"+dir) {
		return nil // the directory itself: it exists
	}
	parent, base, err := root.openParent(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err = root.mkdirAll(path.Dir(name), 0o755, 0, 0); err == nil {
			parent, base, err = root.openParent(name)
		}
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	at := int(parent.Fd())
	mode := uint32(h.Mode) & 0o7777
	switch h.Typeflag {
	case tar.TypeReg:
		return unpackFile(at, base, mode, content)
	case tar.TypeDir:
		return unpackDir(root, at, base, name, mode)
	case tar.TypeSymlink:
		if err := makeWay(at, base); err != nil {
			return err
		}
		return unix.Symlinkat(h.Linkname, at, base)
	case tar.TypeLink:
		return unpackLink(root, entryPath(dir, h.Linkname), at, base)
	case tar.TypeFifo:
		if err := makeWay(at, base); err != nil {
			return err
		}
		return unix.Mkfifoat(at, base, mode)
	case tar.TypeXGlobalHeader:
		return nil
	}
	return errorf(KindInvalid, "entries of type %q are not copied into containers", h.Typeflag)
}

// makeWay removes what is in an entry's place, unless it is a directory with content.
func makeWay(at int, base string) error {
	err := unix.Unlinkat(at, base, 0)
	if err == unix.EISDIR {
		err = unix.Unlinkat(at, base, unix.AT_REMOVEDIR)
	}
	if err == unix.ENOENT {
		return nil
	}
	return err
}

func unpackFile(at int, base string, mode uint32, content io.Reader) error {
	if err := makeWay(at, base); err != nil {
		return err
	}
	fd, err := unix.Openat(at, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	_, err = io.Copy(f, content)
	return errors.Join(err, unix.Fchmod(fd, mode), f.Close())
}

func unpackDir(root *rootDir, at int, base, name string, mode uint32) error {
	err := unix.Mkdirat(at, base, mode)
	if err == nil {
		return chmodDir(at, base, mode)
	}
	if err != unix.EEXIST {
		return err
	}
	if d, err := root.openDir(name); err == nil { // also a symlink to a directory
		return d.Close()
	}
	if err := unix.Unlinkat(at, base, 0); err != nil {
		return err
	}
	return unix.Mkdirat(at, base, mode)
}

// chmodDir does not follow a symlink that took the directory's place meanwhile.
func chmodDir(at int, base string, mode uint32) error {
	fd, err := unix.Openat(at, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fchmod(fd, mode)
}

// unpackLink makes a hard link to an entry that was unpacked before.
func unpackLink(root *rootDir, target string, at int, base string) error {
	from, old, err := root.openParent(target)
	if err != nil {
		return err
	}
	defer from.Close()
	if err := makeWay(at, base); err != nil {
		return err
	}
	return unix.Linkat(int(from.Fd()), old, at, base, 0)
}

// packTar writes a file or a tree. Symlinks are written as they are.
func packTar(ctx context.Context, root *rootDir, name string, w io.Writer) error {
	t := tar.NewWriter(w)
	p := &packer{ctx: ctx, w: t}
	clean := path.Clean(name)
	if clean == "/" || strings.HasSuffix(name, "/.") {
		d, err := root.open(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer d.Close()
		if err := p.dir(d, ".", 0); err != nil {
			return err
		}
		return t.Close()
	}
	parent, base, err := root.openParent(clean)
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := p.entry(parent, base, base, 0); err != nil {
		return err
	}
	return t.Close()
}

type packer struct {
	ctx     context.Context
	w       *tar.Writer
	entries int
}

// entry writes what is called base in an open directory.
func (p *packer) entry(parent *os.File, base, name string, depth int) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	if p.entries++; p.entries > maxCopyEntries || depth > maxCopyDepth {
		return errorf(KindInvalid, "more than %d files, or deeper than %d", maxCopyEntries, maxCopyDepth)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(parent.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(int(parent.Fd()), base, buf)
		if err != nil {
			return err
		}
		h := tarHeader(&st, name, tar.TypeSymlink)
		h.Linkname = string(buf[:n])
		return p.w.WriteHeader(h)
	case unix.S_IFDIR:
		return p.enter(parent, base, name, depth)
	case unix.S_IFREG:
		return p.file(parent, base, name, depth)
	}
	return nil // sockets, devices and FIFOs are not data
}

// gone says that an entry was removed or replaced between two looks, which is
// no error within a tree that is in use.
func gone(err error, depth int) bool {
	return depth > 0 && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, errNotRegular))
}

func openAt(parent *os.File, base, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(parent.Fd()), base, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (p *packer) enter(parent *os.File, base, name string, depth int) error {
	d, err := openAt(parent, base, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if gone(err, depth) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	return p.dir(d, name, depth)
}

func (p *packer) file(parent *os.File, base, name string, depth int) error {
	seen, err := openAt(parent, base, name, unix.O_PATH)
	if err == nil {
		defer seen.Close()
		var f *os.File
		var st unix.Stat_t
		if f, st, err = openRegular(seen); err == nil {
			defer f.Close()
			return p.content(f, &st, name)
		}
	}
	if gone(err, depth) {
		return nil
	}
	return err
}

func (p *packer) content(f *os.File, st *unix.Stat_t, name string) error {
	h := tarHeader(st, name, tar.TypeReg)
	h.Size = st.Size
	if err := p.w.WriteHeader(h); err != nil {
		return err
	}
	// A file that grows or shrinks meanwhile must not tear the archive.
	n, err := io.Copy(p.w, io.LimitReader(f, st.Size))
	if err == nil && n < st.Size {
		_, err = io.CopyN(p.w, zeros{}, st.Size-n)
	}
	return err
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func (p *packer) dir(d *os.File, name string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(d.Fd()), &st); err != nil {
		return err
	}
	if err := p.w.WriteHeader(tarHeader(&st, name+"/", tar.TypeDir)); err != nil {
		return err
	}
	for {
		names, err := d.Readdirnames(256)
		for _, n := range names {
			if err := p.entry(d, n, path.Join(name, n), depth+1); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func tarHeader(st *unix.Stat_t, name string, kind byte) *tar.Header {
	h := &tar.Header{Typeflag: kind, Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), Format: tar.FormatPAX}
	h.ModTime = time.Unix(st.Mtim.Unix())
	return h
}
