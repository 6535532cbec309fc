// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package images pulls, loads, lists and removes the images that containers
// are made from.
//
// It owns image records, their content and the committed snapshots in one
// containerd namespace, and reads the configuration's registries. Its invariant:
// a record exists only when all its layers are unpacked and on disk, and
// whatever a failed pull or load brought is gone, except downloaded parts of a
// pull that the network broke: the next one within the hour resumes them.
//
// Everything that a registry or an archive says is hostile: sizes, counts and
// nesting are bounded before anything is fetched, digests verified, and
// unpacking stops at a limit, at a ratio no honest layer reaches, or before the
// state disk is full.
//
// Records carry labels that say which manifest, configuration and platform were
// chosen. Compressed layers are dropped once they are unpacked: on a machine
// that runs from memory they would cost it twice.
package images

import (
	"context"
	"log/slog"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/machine/engine/registry"
)

// Resolved is an image that is on the machine, unpacked, with all that making
// a container from it needs.
type Resolved struct {
	Name     string        // familiar name as `ps` shows it; the id when it has none
	Record   string        // key in containerd's image store
	ID       digest.Digest // of the configuration
	Digest   digest.Digest // of what the name points at: manifest or index
	Manifest digest.Digest // of the manifest for the platform
	Platform string        // os/arch[/variant]
	Config   ocispec.Image
	Health   *wherryv1.HealthCheck // nil: the image has none
	// ChainID is the committed snapshot that the container's own is prepared upon.
	// An image without layers has none: prepare with the empty parent.
	ChainID     string
	Snapshotter string
}

// Stores are containerd's, over one metadata database.
type Stores struct {
	Content   content.Store
	Images    images.Store
	Snapshots snapshots.Snapshotter
	Leases    leases.Manager
	// Collect removes, now, what nothing refers to.
	Collect func(context.Context) error
}

// Options is what a Keeper needs to know once.
type Options struct {
	Stores Stores
	// Namespace holds every image and its snapshots.
	Namespace string
	// Root is a directory on the file system that holds content and snapshots.
	Root        string
	Snapshotter string // empty: overlayfs
	// Registries is asked at the start of every pull. Nil: none are configured.
	Registries func() []config.Registry
	Log        *slog.Logger
	// UsedBy answers which containers were made from the image with that
	// configuration digest. Nil: none are.
	UsedBy func(id digest.Digest) []string
	// Event is told what happened to an image. Nil: nobody is.
	Event     func(action, id, name string)
	UserAgent string
	Limits    Limits            // zero: DefaultLimits
	Timeouts  registry.Timeouts // zero: its defaults
}

// Keeper is safe for concurrent use.
type Keeper struct {
	Options
	downloads *semaphore.Weighted // blobs under way, over all pulls
	unpacks   *semaphore.Weighted
	names     keyedLocks // one pull or change per name at a time
}

const (
	concurrentDownloads = 3
	concurrentUnpacks   = 2
)

// New does no I/O.
func New(o Options) *Keeper {
	if o.Snapshotter == "" {
		o.Snapshotter = "overlayfs"
	}
	if o.Registries == nil {
		o.Registries = func() []config.Registry { return nil }
	}
	if o.UsedBy == nil {
		o.UsedBy = func(digest.Digest) []string { return nil }
	}
	if o.Event == nil {
		o.Event = func(string, string, string) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Limits == (Limits{}) {
		o.Limits = DefaultLimits
	}
	return &Keeper{
		Options:   o,
		downloads: semaphore.NewWeighted(concurrentDownloads),
		unpacks:   semaphore.NewWeighted(concurrentUnpacks),
	}
}

func (k *Keeper) inNamespace(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, k.Namespace)
}

// keyedLocks hands out one lock per key and forgets those nobody holds.
type keyedLocks struct {
	mu   sync.Mutex
	held map[string]*keyedLock
}

type keyedLock struct {
	c     chan struct{}
	users int
}

// lock waits for the key's lock or the context's end.
func (l *keyedLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*keyedLock{}
	}
	k := l.held[key]
	if k == nil {
		k = &keyedLock{c: make(chan struct{}, 1)}
		l.held[key] = k
	}
	k.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.users--; k.users == 0 {
			delete(l.held, key)
		}
	}
	select {
	case k.c <- struct{}{}:
		return func() { <-k.c; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
