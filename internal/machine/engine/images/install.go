// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

const (
	// leaseLife outlives the slowest pull; it matters only when this process dies in one.
	leaseLife = 24 * time.Hour
	// resumeLife is how long the parts of a broken pull are kept.
	resumeLife = time.Hour
	// partsPrefix begins the ids of leases on such parts.
	partsPrefix = "wherry-parts-"
	// labelPull marks leases with the name they were taken for.
	labelPull = "wherry.image/pull"
	// cleanupTime bounds the work after a failure or a vanished caller.
	cleanupTime = time.Minute
)

// leased runs f under a lease, so that nothing is collected before a record
// refers to it. Afterwards the lease goes, and with it, at once, everything
// that no record refers to; only after a failure of the network the parts are
// kept a while for the next attempt at the same name.
func (k *Keeper) leased(ctx context.Context, name string, f func(context.Context) error) error {
	ls := k.Stores.Leases
	lease, err := ls.Create(ctx, leases.WithID("wherry-"+rand.Text()), leases.WithExpiration(leaseLife),
		leases.WithLabel(labelPull, name))
	if err != nil {
		return fmt.Errorf("take a lease: %w", err)
	}
	err = f(leases.WithLease(ctx, lease.ID))
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	if err != nil && resumable(ctx, err) {
		k.keepParts(after, name, lease)
	} else {
		k.dropParts(after, name)
	}
	if e := ls.Delete(after, lease); e != nil && !errdefs.IsNotFound(e) {
		k.Log.Warn("give back a lease", "name", name, "err", e)
	}
	if e := k.collect(after); e != nil {
		k.Log.Warn("clean up after an image was brought", "name", name, "err", e)
	}
	return err
}

// keepParts moves what a lease holds to one that ends soon.
func (k *Keeper) keepParts(ctx context.Context, name string, from leases.Lease) {
	ls := k.Stores.Leases
	held, err := ls.ListResources(ctx, from)
	if err != nil || len(held) == 0 {
		return
	}
	to, err := ls.Create(ctx, leases.WithID(partsPrefix+rand.Text()), leases.WithExpiration(resumeLife),
		leases.WithLabel(labelPull, name))
	if err != nil {
		k.Log.Warn("keep the parts of a broken pull", "name", name, "err", err)
		return
	}
	for _, r := range held {
		if err := ls.AddResource(ctx, to, r); err != nil {
			k.Log.Warn("keep a part of a broken pull", "name", name, "part", r.ID, "err", err)
		}
	}
}

// dropParts ends the leases that broken pulls of a name left; of all names when
// it is empty. Pulls under way have leases of another kind.
func (k *Keeper) dropParts(ctx context.Context, name string) {
	ls := k.Stores.Leases
	all, err := ls.List(ctx)
	if err != nil {
		k.Log.Warn("list leases", "err", err)
		return
	}
	for _, l := range all {
		if !strings.HasPrefix(l.ID, partsPrefix) || name != "" && l.Labels[labelPull] != name {
			continue
		}
		if err := ls.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			k.Log.Warn("drop the parts of a broken pull", "lease", l.ID, "err", err)
		}
	}
}

// install makes every layer of an image a committed snapshot. Layers are
// brought side by side and unpacked in order, each as soon as it can be.
func (k *Keeper) install(ctx context.Context, c chosenImage, bring func(context.Context, ocispec.Descriptor) error, p *progress) error {
	first, err := k.presentLayers(ctx, c)
	if err != nil {
		return err
	}
	if err := k.roomForLayers(ctx, c, first); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	ready := make([]chan struct{}, len(c.manifest.Layers))
	for i, l := range c.manifest.Layers {
		ready[i] = make(chan struct{})
		if i < first {
			p.layer(l, "exists", l.Size)
			continue
		}
		g.Go(func() error {
			if err := bring(ctx, l); err != nil {
				return err
			}
			close(ready[i])
			return nil
		})
	}
	g.Go(func() error {
		budget := &unpackBudget{limits: k.Limits, room: k.room}
		for i := first; i < len(ready); i++ {
			select {
			case <-ready[i]:
			case <-ctx.Done():
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			l := c.manifest.Layers[i]
			p.layer(l, "unpacking", -1)
			if err := k.unpackLayer(ctx, c, i, budget); err != nil {
				return badLayer(ctx, l, err)
			}
			p.layer(l, "done", l.Size)
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	return k.label(ctx, c)
}

// badLayer sorts what went wrong with a layer: our disk, our caller, or else the image.
func badLayer(ctx context.Context, l ocispec.Descriptor, err error) error {
	err = asDiskFull(err)
	if ctx.Err() != nil || errors.Is(err, ErrDiskFull) {
		return fmt.Errorf("layer %s: %w", l.Digest, err)
	}
	return fmt.Errorf("%w: layer %s: %w", ErrBadImage, l.Digest, err)
}

// presentLayers counts the layers, from the bottom, whose snapshots exist, and
// takes hold of the topmost.
func (k *Keeper) presentLayers(ctx context.Context, c chosenImage) (int, error) {
	sn := k.Stores.Snapshots
	ids := c.config.RootFS.DiffIDs
	for n := len(ids); n > 0; n-- {
		chain := identity.ChainID(ids[:n]).String()
		if _, err := sn.Stat(ctx, chain); errdefs.IsNotFound(err) {
			continue
		} else if err != nil {
			return 0, fmt.Errorf("look for layer %d: %w", n, err)
		}
		if lease, ok := leases.FromContext(ctx); ok {
			r := leases.Resource{ID: chain, Type: "snapshots/" + k.Snapshotter}
			if err := k.Stores.Leases.AddResource(ctx, leases.Lease{ID: lease}, r); err != nil {
				return 0, fmt.Errorf("hold layer %d: %w", n, err)
			}
		}
		// It may have been collected between the look and the hold.
		if _, err := sn.Stat(ctx, chain); err == nil {
			return n, nil
		}
	}
	return 0, nil
}

// roomForLayers refuses at once what cannot fit. What layers unpack to is not
// known yet, but no layer unpacks to less than it is.
func (k *Keeper) roomForLayers(ctx context.Context, c chosenImage, first int) error {
	need := int64(0)
	store := k.Stores.Content
	for _, l := range c.manifest.Layers[first:] {
		if l.Size > k.Limits.UnpackedBytes {
			return fmt.Errorf("%w: layer %s says it has %d bytes", ErrBadImage, l.Digest, l.Size)
		}
		if _, err := store.Info(ctx, l.Digest); err == nil {
			continue
		}
		if st, err := store.Status(ctx, blobRef(l)); err == nil {
			need -= st.Offset
		}
		need += l.Size
	}
	return k.room(need)
}

// label tells containerd what refers to what: target → manifest → configuration → snapshot.
func (k *Keeper) label(ctx context.Context, c chosenImage) error {
	refs := map[digest.Digest]map[string]string{}
	chain := append(append([]ocispec.Descriptor{}, c.path...), c.manifest.Config)
	for i, d := range chain[:len(chain)-1] {
		next := chain[i+1].Digest
		refs[d.Digest] = map[string]string{"containerd.io/gc.ref.content.w." + next.Encoded()[:12]: next.String()}
	}
	if id := chainID(c.config); id != "" {
		refs[c.manifest.Config.Digest] = map[string]string{"containerd.io/gc.ref.snapshot." + k.Snapshotter: id}
	}
	for d, labels := range refs {
		fields := []string{}
		for key := range labels {
			fields = append(fields, "labels."+key)
		}
		if _, err := k.Stores.Content.Update(ctx, content.Info{Digest: d, Labels: labels}, fields...); err != nil {
			return fmt.Errorf("label %s: %w", d, err)
		}
	}
	return nil
}

// record makes the name point at an installed image. What it pointed at before
// stays as an image without a name until it is removed or pruned.
func (k *Keeper) record(ctx context.Context, name string, c chosenImage) (images.Image, error) {
	rec := images.Image{
		Name: name, Target: c.target,
		Labels: map[string]string{
			labelManifest: c.manifestDesc().Digest.String(),
			labelConfig:   c.manifest.Config.Digest.String(),
			labelPlatform: platformOf(c.config),
		},
	}
	return rec, k.point(ctx, rec)
}

// point creates or moves a record.
func (k *Keeper) point(ctx context.Context, rec images.Image) error {
	is := k.Stores.Images
	old, err := is.Get(ctx, rec.Name)
	switch {
	case errdefs.IsNotFound(err):
		_, err = is.Create(ctx, rec)
	case err == nil:
		if err = k.keepNameless(ctx, old, rec.Labels[labelConfig]); err == nil {
			_, err = is.Update(ctx, rec)
		}
	}
	if err != nil {
		return fmt.Errorf("record image %s: %w", rec.Name, err)
	}
	if isNameless(rec.Name) {
		return nil
	}
	// An image that has a name again needs no nameless record.
	err = is.Delete(ctx, namelessRecord(rec.Target.Digest))
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("record image %s: %w", rec.Name, err)
	}
	return nil
}

// keepNameless keeps what a record points at when that is about to change and nothing else points there.
func (k *Keeper) keepNameless(ctx context.Context, old images.Image, newID string) error {
	id := old.Labels[labelConfig]
	if id == "" || id == newID || isNameless(old.Name) {
		return nil
	}
	same, err := k.sameImage(ctx, id)
	if err != nil || len(same) > 1 {
		return err
	}
	_, err = k.Stores.Images.Create(ctx, images.Image{Name: namelessRecord(old.Target.Digest), Target: old.Target, Labels: old.Labels})
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// sameImage lists the records of one image.
func (k *Keeper) sameImage(ctx context.Context, id string) ([]images.Image, error) {
	all, err := k.records(ctx)
	if err != nil {
		return nil, err
	}
	var same []images.Image
	for _, r := range all {
		if r.Labels[labelConfig] == id {
			same = append(same, r)
		}
	}
	return same, nil
}

// Recover turns what pulls of a killed process had brought into parts that the
// next pull resumes. It is called once, before the first pull.
func (k *Keeper) Recover(ctx context.Context) {
	ctx = k.inNamespace(ctx)
	ls := k.Stores.Leases
	all, err := ls.List(ctx)
	if err != nil {
		k.Log.Warn("list leases", "err", err)
		return
	}
	for _, l := range all {
		name, ok := l.Labels[labelPull]
		if !ok || strings.HasPrefix(l.ID, partsPrefix) {
			continue
		}
		k.keepParts(ctx, name, l)
		if err := ls.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			k.Log.Warn("give back a lease", "lease", l.ID, "err", err)
		}
	}
}
