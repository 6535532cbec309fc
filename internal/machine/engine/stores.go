// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/errdefs"
	"github.com/sirupsen/logrus"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/atomicfile"
	"wherry.example/wherry/internal/machine/engine/images"
)

// stores are containerd's: content, snapshots, and the database that says what
// refers to what. Their places on disk are those of a containerd daemon.
type stores struct {
	images.Stores
	db      *metadata.DB
	bolt    *bolt.DB
	overlay snapshots.Snapshotter
	removed chan struct{} // has room for one: something may be there to collect
}

// boltLimit is how long the database may be locked by a process that is just ending.
const boltLimit = 10 * time.Second

func openStores(ctx context.Context, root string, log *slog.Logger) (*stores, error) {
	quietContainerd(log)
	dir := func(name string) string { return filepath.Join(root, name) }
	if err := os.MkdirAll(dir("io.containerd.metadata.v1.bolt"), 0o711); err != nil {
		return nil, err
	}
	if err := mount.SetTempMountLocation(dir("tmpmounts")); err != nil {
		return nil, err
	}
	if _, err := mount.CleanupTempMounts(0); err != nil {
		return nil, fmt.Errorf("clean temporary mounts: %w", err)
	}
	blobs, err := local.NewStore(dir("io.containerd.content.v1.content"))
	if err != nil {
		return nil, fmt.Errorf("open the content store: %w", err)
	}
	// A store that never held a blob fails to collect.
	if err := os.MkdirAll(dir("io.containerd.content.v1.content/blobs/sha256"), 0o755); err != nil {
		return nil, err
	}
	s := &stores{removed: make(chan struct{}, 1)}
	if s.overlay, err = overlay.NewSnapshotter(dir("io.containerd.snapshotter.v1.overlayfs"), overlay.AsynchronousRemove); err != nil {
		return nil, fmt.Errorf("open the snapshots: %w", err)
	}
	if err := removeAbandoned(ctx, s.overlay); err != nil {
		s.Close()
		return nil, err
	}
	// The free list is rebuilt at opening: one thing less that a crash can tear.
	options := &bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType, Timeout: boltLimit, NoStatistics: true}
	if s.bolt, err = bolt.Open(dir("io.containerd.metadata.v1.bolt/meta.db"), 0o600, options); err != nil {
		s.Close()
		return nil, fmt.Errorf("open the database of images: %w", err)
	}
	s.db = metadata.NewDB(s.bolt, blobs, map[string]snapshots.Snapshotter{snapshotterName: s.overlay})
	if err := s.db.Init(ctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("open the database of images: %w", err)
	}
	reserveBlocks(log, dir("io.containerd.metadata.v1.bolt/meta.db"), dir("io.containerd.snapshotter.v1.overlayfs/metadata.db"))
	s.db.RegisterMutationCallback(func(removed bool) {
		if removed {
			s.collectLater()
		}
	})
	s.collectLater() // an earlier life may have been killed before it collected
	s.Stores = images.Stores{
		Content: s.db.ContentStore(), Images: metadata.NewImageStore(s.db), Snapshots: s.db.Snapshotter(snapshotterName),
		Leases: metadata.NewLeaseManager(s.db), Collect: s.collect,
	}
	return s, nil
}

// databaseBlocks is what a database may grow to without asking the disk for room.
const databaseBlocks = 2 << 20

// reserveBlocks keeps a full disk from keeping anyone from removing something:
// that is written into the databases too.
func reserveBlocks(log *slog.Logger, files ...string) {
	for _, f := range files {
		if err := atomicfile.Allocate(f, databaseBlocks); err != nil {
			log.Error("engine: a full disk can make removals fail", "err", err)
		}
	}
}

// Close is for half-opened stores too.
func (s *stores) Close() {
	if s.bolt != nil {
		s.bolt.Close()
	}
	if s.overlay != nil {
		s.overlay.Close()
	}
}

// collect removes what nothing refers to.
func (s *stores) collect(ctx context.Context) error {
	_, err := s.db.GarbageCollect(ctx)
	return err
}

func (s *stores) collectLater() {
	select {
	case s.removed <- struct{}{}:
	default: // it is due already
	}
}

// collectPause is how long the space of something removed may stay taken. Many
// short containers then share one collection.
const collectPause = time.Second

// collectRemoved collects after something was removed, until ctx ends.
func (e *Engine) collectRemoved(ctx context.Context) {
	for {
		select {
		case <-e.stores.removed:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(collectPause):
		case <-ctx.Done():
			return
		}
		if err := e.stores.collect(ctx); err != nil && ctx.Err() == nil {
			e.log.Warn("engine: free the space of what was removed", "err", err)
		}
	}
}

// shortOfRoom is when the space of something removed is wanted back at once.
const shortOfRoom = 64 << 20

// collectIfShort frees the space of what was removed before the caller is told,
// who may want to use it.
func (e *Engine) collectIfShort(ctx context.Context) {
	var st unix.Statfs_t
	if unix.Statfs(e.opts.Root, &st) != nil || st.Bavail*uint64(st.Bsize) >= shortOfRoom {
		return
	}
	e.logFailure("free the space of what was removed", "", e.stores.collect(ctx))
}

// removeAbandoned removes the directories of snapshots that were being made when
// this process was killed: made, but not yet in the snapshotter's records. The
// records give the number of such a snapshot to the next one, which could then
// not be made.
func removeAbandoned(ctx context.Context, snapshotter any) error {
	cleaner, ok := snapshotter.(snapshots.Cleaner)
	if !ok {
		return nil
	}
	if err := cleaner.Cleanup(ctx); err != nil && !errdefs.IsNotFound(err) { // not found: no snapshot was ever made
		return fmt.Errorf("remove what a crash left behind: %w", err)
	}
	return nil
}

// quietContainerd sends the log of containerd's libraries to ours, at debug level:
// what matters comes back as errors of our calls.
func quietContainerd(log *slog.Logger) {
	logrus.SetOutput(io.Discard)
	logrus.SetLevel(logrus.ErrorLevel)
	logrus.StandardLogger().ReplaceHooks(logrus.LevelHooks{})
	logrus.AddHook(logHook{log})
}

type logHook struct{ log *slog.Logger }

func (logHook) Levels() []logrus.Level { return []logrus.Level{logrus.ErrorLevel} }
func (h logHook) Fire(e *logrus.Entry) error {
	h.log.Debug("containerd: "+e.Message, "err", e.Data[logrus.ErrorKey], "id", e.Data["id"])
	return nil
}
