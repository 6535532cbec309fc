// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	clog "github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/machine/engine/registry"
)

// world is a Keeper on real containerd stores in a directory of the test.
type world struct {
	*Keeper
	ctx        context.Context
	db         *metadata.DB
	dir        string
	registries []config.Registry
	users      map[digest.Digest][]string
}

func newWorld(t *testing.T, limits ...func(*Limits)) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("unpacking layers needs root")
	}
	must(t, clog.SetLevel("fatal"))
	dir := t.TempDir()
	w := &world{dir: dir, ctx: namespaces.WithNamespace(t.Context(), "test"), users: map[digest.Digest][]string{}}
	sn, err := overlay.NewSnapshotter(filepath.Join(dir, "snapshots"))
	must(t, err)
	t.Cleanup(func() { sn.Close() })
	cs, err := local.NewStore(filepath.Join(dir, "content"))
	must(t, err)
	// A store that never held a blob fails to collect; a machine's store is there before its first pull too.
	must(t, os.MkdirAll(filepath.Join(dir, "content/blobs/sha256"), 0o700))
	db, err := bolt.Open(filepath.Join(dir, "meta.db"), 0o600, nil)
	must(t, err)
	t.Cleanup(func() { db.Close() })
	w.db = metadata.NewDB(db, cs, map[string]snapshots.Snapshotter{"overlayfs": sn})
	must(t, w.db.Init(t.Context()))
	l := DefaultLimits
	l.Reserve = 1 << 20
	for _, f := range limits {
		f(&l)
	}
	w.Keeper = New(Options{
		Stores: Stores{
			Content: w.db.ContentStore(), Images: metadata.NewImageStore(w.db), Snapshots: w.db.Snapshotter("overlayfs"),
			Leases: metadata.NewLeaseManager(w.db), Collect: func(ctx context.Context) error { _, err := w.db.GarbageCollect(ctx); return err },
		},
		Namespace: "test", Root: dir, Limits: l,
		Registries: func() []config.Registry { return w.registries },
		UsedBy:     func(id digest.Digest) []string { return w.users[id] },
		Timeouts:   registry.Timeouts{Dial: time.Second, Idle: 500 * time.Millisecond, Retry: 10 * time.Millisecond},
	})
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// left says what the stores hold: blobs, downloads under way, snapshots, leases, records.
func (w *world) left(t *testing.T) string {
	t.Helper()
	var out []string
	must(t, w.Stores.Content.Walk(w.ctx, func(i content.Info) error {
		out = append(out, "blob "+i.Digest.String())
		return nil
	}))
	st, err := w.Stores.Content.ListStatuses(w.ctx)
	must(t, err)
	for _, s := range st {
		out = append(out, "partial "+s.Ref)
	}
	must(t, w.Stores.Snapshots.Walk(w.ctx, func(_ context.Context, i snapshots.Info) error {
		out = append(out, "snapshot "+i.Name)
		return nil
	}))
	ls, err := w.Stores.Leases.List(w.ctx)
	must(t, err)
	for _, l := range ls {
		out = append(out, "lease "+l.ID)
	}
	recs, err := w.Stores.Images.List(w.ctx)
	must(t, err)
	for _, r := range recs {
		out = append(out, "record "+r.Name)
	}
	for _, d := range []string{"content/blobs/sha256", "content/ingest", "snapshots/snapshots"} {
		entries, err := os.ReadDir(filepath.Join(w.dir, d))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range entries {
			out = append(out, "file "+d+"/"+e.Name())
		}
	}
	sort.Strings(out)
	return strings.Join(out, "\n")
}

// files lists an image's files as a container would see them, through a read-only mount of its snapshot.
func (w *world) files(t *testing.T, chain string) map[string]os.FileInfo {
	t.Helper()
	sn := w.Stores.Snapshots
	key := "view-" + chain
	mounts, err := sn.View(w.ctx, key, chain)
	must(t, err)
	defer sn.Remove(w.ctx, key)
	dir := t.TempDir()
	for _, m := range mounts {
		must(t, m.Mount(dir))
		defer unmount(t, dir)
	}
	out := map[string]os.FileInfo{}
	must(t, filepath.Walk(dir, func(p string, i os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		out[rel] = i
		return err
	}))
	return out
}
