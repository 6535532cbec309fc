// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/api/wherryv1"
)

// Bounds of a copy. Its size is bounded by the disk and the volumes' limits.
const (
	maxCopyEntries = 1_000_000
	maxCopyDepth   = 512
)

// CopyTo unpacks a tar stream below an existing directory of the container,
// running or not.
func (e *Engine) CopyTo(ctx context.Context, ref, dir string, archive io.Reader) error {
	return e.withFiles(ctx, ref, dir, func(root *rootDir) error {
		d, err := root.openDir(dir)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			return errorf(KindNotFound, "%s is not a directory of the container", dir)
		}
		if err != nil {
			return err
		}
		d.Close()
		return withDiskKind(unpackTar(ctx, root, dir, archive))
	})
}

// CopyFrom writes a tar stream of a file or directory of the container,
// running or not. Its entries begin with the last element of the path; a path
// that ends in /. or is the root gives the content of the directory.
func (e *Engine) CopyFrom(ctx context.Context, ref, name string, w io.Writer) error {
	return e.withFiles(ctx, ref, name, func(root *rootDir) error {
		err := packTar(ctx, root, name, w)
		if errors.Is(err, fs.ErrNotExist) {
			return errorf(KindNotFound, "no such file or directory in the container: %s", name)
		}
		return err
	})
}

// withFiles calls f with the container's files as the container sees them.
func (e *Engine) withFiles(ctx context.Context, ref, name string, f func(*rootDir) error) error {
	if err := errors.Join(checkText("path", name), checkWorkdir(name)); err != nil || name == "" {
		return errorf(KindInvalid, "the path in the container has to be absolute: %.100q", name)
	}
	c, err := e.table.find(ref, false)
	if err != nil {
		return err
	}
	if r := c.running(); r != nil {
		return e.withRunningFiles(c, r, f)
	}
	if err := c.lock(ctx); err != nil { // keeps it from starting meanwhile
		return err
	}
	defer c.unlock()
	if r := c.running(); r != nil {
		return e.withRunningFiles(c, r, f)
	}
	if c.isGone() {
		return errorf(KindNotFound, "no such container: %s", ref)
	}
	return e.withRoot(ctx, c, func(root *rootDir) error {
		if err := e.mountVolumes(ctx, c, root); err != nil {
			return err
		}
		return f(root)
	})
}

func (e *Engine) withRunningFiles(c *container, r *run, f func(*rootDir) error) error {
	root, err := openRootDir(fmt.Sprintf("/proc/%d/root", r.pid))
	// The descriptor holds the container's root; that it is not the root of a
	// process that got the number later is known when ours still lives.
	if err != nil || r.ended() || r.pidfd.signal(0) != nil {
		return errorf(KindFailedPrecondition, "container %s is ending", c.record().Name)
	}
	defer root.Close()
	return f(root)
}

// mountVolumes shows a stopped container's volumes in their places. They go
// away with the root's mount.
func (e *Engine) mountVolumes(ctx context.Context, c *container, root *rootDir) error {
	bound, err := e.bindMounts(ctx, c.record())
	if err != nil {
		return err
	}
	for _, b := range bound {
		if b.Kind != wherryv1.Mount_KIND_VOLUME {
			continue
		}
		if err := root.mkdirAll(b.Target, 0o755, 0, 0); err != nil {
			return err
		}
		d, err := root.openDir(b.Target)
		if err != nil {
			return err
		}
		err = unix.Mount(b.HostPath, procPath(d), "", unix.MS_BIND, "")
		d.Close()
		if err != nil {
			return fmt.Errorf("show volume %s: %w", b.Source, err)
		}
	}
	return nil
}

// entryPath is where an archive's entry goes: below dir, whatever it is called.
func entryPath(dir, name string) string {
	return path.Join("/", dir, path.Clean("/"+name))
}

func checkEntryName(name string) error {
	if len(name) > maxText || strings.ContainsRune(name, 0) || strings.Count(name, "/") > maxCopyDepth {
		return errorf(KindInvalid, "archive entry %.100q: the name is out of bounds", name)
	}
	return nil
}
