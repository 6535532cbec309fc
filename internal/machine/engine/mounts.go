// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	cfs "github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"wherry.example/wherry/api/wherryv1"
)

// runPath is where a container's files of this boot are.
func (e *Engine) runPath(id string) string { return filepath.Join(e.opts.RunDir, id) }

func (e *Engine) rootPath(id string) string { return filepath.Join(e.runPath(id), "rootfs") }

// mountRoot mounts the container's snapshot. It is idempotent.
func (e *Engine) mountRoot(ctx context.Context, id string) error {
	mounts, err := e.snapshotter().Mounts(imageContext(ctx), id)
	if err != nil {
		return fmt.Errorf("find the container's file system: %w", err)
	}
	if err := e.unmountRoot(id); err != nil {
		return err
	}
	if err := os.MkdirAll(e.rootPath(id), 0o700); err != nil {
		return err
	}
	if err := mount.All(mounts, e.rootPath(id)); err != nil {
		return fmt.Errorf("mount the container's file system: %w", err)
	}
	return nil
}

func (e *Engine) unmountRoot(id string) error {
	if err := mount.UnmountAll(e.rootPath(id), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount the container's file system: %w", err)
	}
	return nil
}

// withRoot calls f with the mounted root of a container that does not run.
func (e *Engine) withRoot(ctx context.Context, c *container, f func(*rootDir) error) (err error) {
	if err := e.mountRoot(ctx, c.id); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.unmountRoot(c.id)) }()
	root, err := openRootDir(e.rootPath(c.id))
	if err != nil {
		return err
	}
	defer root.Close()
	return f(root)
}

// checkBinds refuses host paths outside the allowed ones. The answer can change
// with the configuration and with symlinks: it is asked again at each start.
func (e *Engine) checkBinds(mounts []*wherryv1.Mount) error {
	for _, m := range mounts {
		if m.Kind == wherryv1.Mount_KIND_BIND {
			if _, err := e.resolveBind(m.Source); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *Engine) resolveBind(source string) (string, error) {
	real, err := filepath.EvalSymlinks(source)
	if err != nil {
		return "", errorf(KindInvalid, "host path %.200q: %w", source, err)
	}
	for _, allowed := range e.settings.Load().Containers.AllowedHostPaths {
		base, err := filepath.EvalSymlinks(allowed)
		if err != nil {
			continue
		}
		if real == base || base == "/" || strings.HasPrefix(real, strings.TrimSuffix(base, "/")+"/") {
			return real, nil
		}
	}
	return "", errorf(KindPermission, "host path %.200q is not among containers.allowedHostPaths of the machine's configuration", source)
}

// nameVolumes gives anonymous volumes a name. The names are in the record
// before the volumes exist, so that a crash between leaves none behind.
func (e *Engine) nameVolumes(ctx context.Context, c *container) error {
	rec := c.record()
	mounts := make([]*wherryv1.Mount, 0, len(rec.Effective.Mounts))
	var anonymous []string
	for _, m := range rec.Effective.Mounts {
		m = proto.CloneOf(m)
		if m.Kind == wherryv1.Mount_KIND_VOLUME && m.Source == "" {
			var b [32]byte
			rand.Read(b[:])
			m.Source = hex.EncodeToString(b[:])
			anonymous = append(anonymous, m.Source)
		}
		mounts = append(mounts, m)
	}
	return c.change(func(r *record) { r.Mounts, r.Anonymous = mounts, anonymous })
}

// fillVolumes makes the volumes and copies into empty ones what the image has
// at their place.
func (e *Engine) fillVolumes(ctx context.Context, c *container, root *rootDir) error {
	rec := c.record()
	for _, m := range rec.Mounts {
		if m.Kind != wherryv1.Mount_KIND_VOLUME {
			continue
		}
		dir, err := e.opts.Volumes.Ensure(ctx, m.Source, slices.Contains(rec.Anonymous, m.Source))
		if err != nil {
			return fmt.Errorf("volume %s: %w", m.Source, err)
		}
		if m.NoCopy {
			continue
		}
		if err := copyUp(root, m.Target, dir); err != nil {
			return fmt.Errorf("fill volume %s from the image: %w", m.Source, err)
		}
	}
	return nil
}

// copyUp copies a directory of the root into an empty volume. The container
// does not run yet, so nothing moves below; symlinks on the way to the
// directory are followed within the root, those below it are copied as they
// are. How much is copied is bounded by what unpacking the image allowed.
func copyUp(root *rootDir, target, volume string) error {
	if empty, err := isEmpty(volume); err != nil || !empty {
		return err
	}
	src, err := root.open(target, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer src.Close()
	if err := cfs.CopyDir(volume, procPath(src)+"/."); err != nil {
		return errors.Join(err, clearDir(volume))
	}
	return nil
}

func isEmpty(dir string) (bool, error) {
	d, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer d.Close()
	_, err = d.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// clearDir takes back a copy that failed, so that the next attempt finds the
// volume empty again.
func clearDir(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, d := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, d.Name())))
	}
	return err
}

// bindMounts finds the host directory of each mount at start.
func (e *Engine) bindMounts(ctx context.Context, rec record) ([]boundMount, error) {
	var bound []boundMount
	for _, m := range rec.Mounts {
		b := boundMount{Mount: m}
		var err error
		switch m.Kind {
		case wherryv1.Mount_KIND_VOLUME:
			b.HostPath, err = e.opts.Volumes.Ensure(ctx, m.Source, slices.Contains(rec.Anonymous, m.Source))
		case wherryv1.Mount_KIND_BIND:
			b.HostPath, err = e.resolveBind(m.Source)
		}
		if err != nil {
			return nil, err
		}
		bound = append(bound, b)
	}
	return bound, nil
}
