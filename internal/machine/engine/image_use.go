// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"log/slog"
	"sync"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"wherry.example/wherry/config"
)

// resolvedImage is an image that is on the machine, unpacked, with all that
// making a container from it needs.
type resolvedImage struct {
	Name     string        // familiar name as `ps` shows it; the digest of the configuration when it has none
	Record   string        // key in containerd's image store
	ID       digest.Digest // of the configuration
	Digest   digest.Digest // of what the name points at: manifest or index
	Manifest digest.Digest // of the manifest for the platform
	Platform string        // os/arch[/variant]
	Config   ocispec.Image
	// ChainID is the committed snapshot that the container's own is prepared upon.
	// An image without layers has none: prepare with the empty parent.
	ChainID     string
	Snapshotter string
}

// imageOptions is what the image keeper needs from the engine.
type imageOptions struct {
	Client *containerd.Client
	// Root is a directory on the file system that holds content and snapshots.
	Root        string
	Snapshotter string // empty: overlayfs
	Registries  []config.Registry
	Log         *slog.Logger
	// UsedBy answers which containers were made from the image with that
	// configuration digest. Nil: none are.
	UsedBy func(ctx context.Context, id digest.Digest) []string
	// Event is told what happened to an image. Nil: nobody is.
	Event  func(ctx context.Context, action, id, name string)
	Limits imageLimits // zero: defaultImageLimits
}

// imageKeeper pulls, loads, lists and removes images. Its invariant: an image
// record exists only when its layers are unpacked, and whatever a failed pull
// or load brought is gone, except downloaded parts that the next attempt within
// the hour resumes.
//
// Records carry labels that say which manifest, configuration and platform were
// chosen, so listing needs no content. Compressed layers are dropped once they
// are unpacked: on a machine that runs from memory they would cost it twice.
type imageKeeper struct {
	imageOptions
	downloads *semaphore.Weighted // blobs under way, over all pulls
	unpacks   *semaphore.Weighted
	names     keyedLocks // one pull or load per name at a time

	registriesMu sync.RWMutex
}

const (
	concurrentDownloads = 3
	concurrentUnpacks   = 2
)

func newImageKeeper(o imageOptions) *imageKeeper {
	if o.Snapshotter == "" {
		o.Snapshotter = "overlayfs"
	}
	if o.UsedBy == nil {
		o.UsedBy = func(context.Context, digest.Digest) []string { return nil }
	}
	if o.Event == nil {
		o.Event = func(context.Context, string, string, string) {}
	}
	if o.Limits == (imageLimits{}) {
		o.Limits = defaultImageLimits
	}
	return &imageKeeper{
		imageOptions: o,
		downloads:    semaphore.NewWeighted(concurrentDownloads),
		unpacks:      semaphore.NewWeighted(concurrentUnpacks),
	}
}

// SetRegistries replaces how registries are reached, for pulls that start after it.
func (k *imageKeeper) SetRegistries(r []config.Registry) {
	k.registriesMu.Lock()
	defer k.registriesMu.Unlock()
	k.Registries = r
}

func (k *imageKeeper) registries() []config.Registry {
	k.registriesMu.RLock()
	defer k.registriesMu.RUnlock()
	return k.Registries
}

// namespaced puts user images in the users' namespace unless the caller chose one.
func namespaced(ctx context.Context) context.Context {
	if _, ok := namespaces.Namespace(ctx); ok {
		return ctx
	}
	return namespaces.WithNamespace(ctx, "wherry")
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
