// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"wherry.example/wherry/api/wherryv1"
)

// snapshotLabels keep a container's snapshot from the garbage collector and
// say whose it is.
const (
	labelGCRoot    = "containerd.io/gc.root"
	labelContainer = "wherry.container"
)

// maxContainers bounds what a caller can make the machine keep.
const maxContainers = 4096

const snapshotterName = "overlayfs"

// Create makes a container that Start can start. Nothing is left behind when
// it returns an error.
func (e *Engine) Create(ctx context.Context, spec *wherryv1.ContainerSpec) (id, name string, warnings []string, err error) {
	c, err := e.create(ctx, spec, false)
	if err != nil {
		return "", "", nil, err
	}
	return c.id, c.record().Name, createWarnings(spec), nil
}

func createWarnings(s *wherryv1.ContainerSpec) (w []string) {
	if s.NetworkMode == wherryv1.NetworkMode_NETWORK_MODE_HOST && s.Hostname != "" {
		w = append(w, "the host name is the container's alone; its network is the machine's")
	}
	return w
}

func (e *Engine) create(ctx context.Context, spec *wherryv1.ContainerSpec, system bool) (*container, error) {
	if e.stopping.Load() {
		return nil, errorf(KindUnavailable, "the machine is shutting down")
	}
	if spec == nil {
		return nil, errorf(KindInvalid, "no container is described")
	}
	if err := checkSpec(spec); err != nil {
		return nil, err
	}
	if len(e.table.all()) >= maxContainers {
		return nil, errorf(KindResourceExhausted, "the machine has %d containers; remove some first", maxContainers)
	}
	img, err := e.resolveImage(ctx, spec.Image)
	if err != nil {
		return nil, err
	}
	id := newID()
	name, err := e.table.reserveName(spec.Name, system, id)
	if err != nil {
		return nil, err
	}
	c, err := e.createNamed(ctx, id, name, system, spec, img)
	if err != nil {
		e.table.release(nameKey{system, name}, id)
		return nil, err
	}
	e.publish(c, "create", nil)
	return c, nil
}

// createNamed does the steps in the order that recovery counts on: record
// first, as "creating"; record last, as "ready".
func (e *Engine) createNamed(ctx context.Context, id, name string, system bool, spec *wherryv1.ContainerSpec, img resolvedImage) (*container, error) {
	effective, err := effectiveSpec(spec, id, name, img.Config.Config, img.Health)
	if err != nil {
		return nil, err
	}
	if err := e.checkBinds(effective.Mounts); err != nil {
		return nil, err
	}
	if err := e.opts.Network.Check(networkRequest(id, effective, "")); err != nil {
		return nil, withKind(KindInvalid, err)
	}
	rec := record{ID: id, Name: name, System: system, CreatedAt: time.Now(), Spec: spec, Effective: effective,
		State: &wherryv1.ContainerState{}, Stage: stageCreating, Image: factsOf(img)}
	c := newContainer(rec, filepath.Join(e.opts.Root, "containers", id))
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the container's directory: %w", err)
	}
	c.logs = newLogFile(c.dir, effective.Log, e.log)
	if err := e.furnish(ctx, c); err != nil {
		if undo := e.dismantle(context.WithoutCancel(ctx), c); undo != nil {
			e.log.Error("engine: half-made container stays until the next start", "id", id, "err", undo)
		}
		return nil, withDiskKind(err)
	}
	e.table.add(c)
	return c, nil
}

// furnish writes the record, makes snapshot and volumes, and completes the record.
func (e *Engine) furnish(ctx context.Context, c *container) error {
	rec := c.record()
	if err := rec.save(c.dir); err != nil {
		return err
	}
	if err := e.makeSnapshot(ctx, c); err != nil {
		return err
	}
	if err := e.nameVolumes(ctx, c); err != nil {
		return err
	}
	if err := e.withRoot(ctx, c, func(root *rootDir) error {
		if err := e.fillVolumes(ctx, c, root); err != nil {
			return err
		}
		_, _, err := lookUpUser(root, rec.Effective.User, rec.Effective.GroupAdd)
		return err
	}); err != nil {
		return err
	}
	return c.change(func(r *record) { r.Stage = stageReady })
}

func (e *Engine) makeSnapshot(ctx context.Context, c *container) error {
	rec := c.record()
	labels := map[string]string{labelGCRoot: rec.CreatedAt.UTC().Format(time.RFC3339), labelContainer: c.id}
	_, err := e.snapshotter().Prepare(imageContext(ctx), c.id, rec.Image.ChainID, snapshots.WithLabels(labels))
	if err != nil {
		return fmt.Errorf("make the container's file system: %w", err)
	}
	return nil
}

func (e *Engine) removeSnapshot(ctx context.Context, id string) error {
	err := e.snapshotter().Remove(imageContext(ctx), id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

func (e *Engine) snapshotter() snapshots.Snapshotter {
	return e.stores.Snapshots
}

func factsOf(img resolvedImage) imageFacts {
	return imageFacts{Name: img.Name, ID: img.ID.String(), Digest: img.Digest.String(), ChainID: img.ChainID,
		Volumes: slices.Sorted(maps.Keys(img.Config.Config.Volumes)), Ports: slices.Sorted(maps.Keys(img.Config.Config.ExposedPorts))}
}

func networkRequest(id string, s *wherryv1.ContainerSpec, netns string) NetworkRequest {
	return NetworkRequest{Container: id, Name: s.Name, Hostname: s.Hostname, NetNS: netns, Mode: s.NetworkMode, Networks: s.Networks, Ports: s.Ports}
}

// withDiskKind tells apart the one internal error that the caller can mend.
func withDiskKind(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return errorf(KindResourceExhausted, "the state disk is full; remove images, containers or volumes: %w", err)
	}
	return err
}

// dismantle removes everything of a container, in the order that recovery can
// repeat: the record goes last.
func (e *Engine) dismantle(ctx context.Context, c *container) error {
	rec := c.record()
	if err := errors.Join(
		e.opts.Network.Detach(ctx, c.id),
		e.unmountRoot(c.id),
		e.endTask(ctx, c.id),
	); err != nil {
		return err // never delete below a mount, nor what a task is found by
	}
	if err := os.RemoveAll(e.runPath(c.id)); err != nil {
		return err
	}
	if err := e.removeSnapshot(ctx, c.id); err != nil {
		return fmt.Errorf("remove the container's file system: %w", err)
	}
	for _, v := range rec.Anonymous {
		if rec.Stage == stageCreating {
			if err := e.opts.Volumes.Remove(ctx, v); err != nil {
				e.log.Warn("engine: anonymous volume stays", "volume", v, "err", err)
			}
		}
	}
	return removeContainerDir(c.dir)
}

// removeContainerDir makes the removal atomic: without its record the rest is
// a stray that recovery deletes.
func removeContainerDir(dir string) error {
	if err := os.Remove(filepath.Join(dir, recordName)); err != nil && !isNotExist(err) {
		return err
	}
	return os.RemoveAll(dir)
}
