// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Labels of an image record: what was chosen when it was made.
const (
	labelManifest = "wherry.image/manifest"
	labelConfig   = "wherry.image/config"
	labelPlatform = "wherry.image/platform"
)

// Resolve finds an image on the machine by name, digest or id. It does not pull.
func (k *Keeper) Resolve(ctx context.Context, ref string) (Resolved, error) {
	ctx = k.inNamespace(ctx)
	rec, err := k.findRecord(ctx, ref)
	if err != nil {
		return Resolved{}, err
	}
	return k.resolveRecord(ctx, rec)
}

// findRecord looks for a name first, then for an id, as docker does.
func (k *Keeper) findRecord(ctx context.Context, ref string) (images.Image, error) {
	missing := fmt.Errorf("%w: %.200s", ErrNotFound, ref)
	named, nameErr := parseImageName(ref)
	if nameErr == nil {
		rec, err := k.Stores.Images.Get(ctx, named.String())
		if err == nil {
			return rec, nil
		}
		if !errdefs.IsNotFound(err) {
			return images.Image{}, fmt.Errorf("look up image %s: %w", ref, err)
		}
	}
	hex, ok := asImageID(ref)
	if !ok {
		if nameErr != nil {
			return images.Image{}, nameErr
		}
		return images.Image{}, missing
	}
	found, err := k.recordsByID(ctx, hex)
	if err != nil {
		return images.Image{}, err
	}
	if len(found) == 0 {
		return images.Image{}, missing
	}
	if id := found[0].Labels[labelConfig]; slices.ContainsFunc(found, func(i images.Image) bool { return i.Labels[labelConfig] != id }) {
		return images.Image{}, fmt.Errorf("%w: id %s matches several images; give more digits", ErrInvalid, ref)
	}
	return found[0], nil
}

// recordsByID finds every record whose configuration, manifest or target digest starts so.
func (k *Keeper) recordsByID(ctx context.Context, hex string) ([]images.Image, error) {
	all, err := k.records(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(i images.Image) bool {
		for _, d := range []string{i.Labels[labelConfig], i.Labels[labelManifest], i.Target.Digest.String()} {
			if _, h, ok := strings.Cut(d, ":"); ok && strings.HasPrefix(h, hex) {
				return false
			}
		}
		return true
	}), nil
}

// records lists the records that this engine made, by name.
func (k *Keeper) records(ctx context.Context) ([]images.Image, error) {
	all, err := k.Stores.Images.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	all = slices.DeleteFunc(all, func(i images.Image) bool { return i.Labels[labelConfig] == "" })
	slices.SortFunc(all, func(a, b images.Image) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func (k *Keeper) resolveRecord(ctx context.Context, rec images.Image) (Resolved, error) {
	store := k.Stores.Content
	id := digest.Digest(rec.Labels[labelConfig])
	r := Resolved{
		Name: familiarName(rec.Name), Record: rec.Name, ID: id, Digest: rec.Target.Digest,
		Manifest: digest.Digest(rec.Labels[labelManifest]), Platform: rec.Labels[labelPlatform],
		Snapshotter: k.Snapshotter,
	}
	if isNameless(rec.Name) {
		r.Name = id.String()
	}
	cfg, err := readJSON[imageConfig](ctx, store, id, k.Limits.ManifestBytes)
	if err != nil {
		return Resolved{}, fmt.Errorf("read the configuration of image %s: %w", r.Name, err)
	}
	r.Config, r.Health = cfg.Image, cfg.health()
	r.ChainID = chainID(r.Config)
	return r, nil
}

// chainID names the snapshot of all layers.
func chainID(cfg ocispec.Image) string {
	if len(cfg.RootFS.DiffIDs) == 0 {
		return ""
	}
	return identity.ChainID(cfg.RootFS.DiffIDs).String()
}

// readJSON reads a bounded document from the content store.
func readJSON[T any](ctx context.Context, p content.InfoReaderProvider, d digest.Digest, limit int64) (out T, err error) {
	b, err := readBlob(ctx, p, d, limit)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return out, fmt.Errorf("%s is not the JSON it should be: %w", d, err)
	}
	return out, nil
}

func readBlob(ctx context.Context, p content.InfoReaderProvider, d digest.Digest, limit int64) ([]byte, error) {
	info, err := p.Info(ctx, d)
	if err != nil {
		return nil, err
	}
	if info.Size > limit {
		return nil, fmt.Errorf("%s has %d bytes; at most %d are read", d, info.Size, limit)
	}
	return content.ReadBlob(ctx, p, ocispec.Descriptor{Digest: d, Size: info.Size})
}

func platformOf(cfg ocispec.Image) string {
	return platforms.Format(platforms.Normalize(ocispec.Platform{OS: cfg.OS, Architecture: cfg.Architecture, Variant: cfg.Variant}))
}
