// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"wherry.example/wherry/api/wherryv1"
)

// List lists images, one entry for each id, those with a matching name when a filter is given.
func (k *Keeper) List(ctx context.Context, nameFilter string) ([]*wherryv1.Image, error) {
	ctx = k.inNamespace(ctx)
	all, err := k.records(ctx)
	if err != nil {
		return nil, err
	}
	byID := map[string][]images.Image{}
	var order []string
	for _, r := range all {
		id := r.Labels[labelConfig]
		if byID[id] == nil {
			order = append(order, id)
		}
		byID[id] = append(byID[id], r)
	}
	var out []*wherryv1.Image
	for _, id := range order {
		img := k.describe(ctx, byID[id])
		match := func(n string) bool { return strings.Contains(n, nameFilter) }
		if nameFilter == "" || slices.ContainsFunc(img.Names, match) {
			out = append(out, img)
		}
	}
	return out, nil
}

// apiImage describes the image that a record points at.
func (k *Keeper) apiImage(ctx context.Context, rec images.Image) (*wherryv1.Image, error) {
	same, err := k.sameImage(ctx, rec.Labels[labelConfig])
	if err != nil {
		return nil, err
	}
	if len(same) == 0 { // removed meanwhile
		same = []images.Image{rec}
	}
	return k.describe(ctx, same), nil
}

// describe never fails: an image whose content is damaged must still be listed, to be removed.
func (k *Keeper) describe(ctx context.Context, recs []images.Image) *wherryv1.Image {
	rec, store := recs[0], k.Stores.Content
	id := digest.Digest(rec.Labels[labelConfig])
	img := &wherryv1.Image{
		Id: id.String(), Digest: rec.Target.Digest.String(), Platform: rec.Labels[labelPlatform], Containers: k.UsedBy(id),
	}
	for _, r := range recs {
		if !isNameless(r.Name) {
			img.Names = append(img.Names, familiarName(r.Name))
		}
	}
	m, err := readJSON[ocispec.Manifest](ctx, store, digest.Digest(rec.Labels[labelManifest]), k.Limits.ManifestBytes)
	if err != nil {
		k.Log.Warn("read the manifest of an image", "image", rec.Name, "err", err)
		return img
	}
	img.Bytes = uint64(m.Config.Size)
	for _, l := range m.Layers {
		img.Bytes += uint64(l.Size)
	}
	cfg, err := readJSON[ocispec.Image](ctx, store, id, k.Limits.ManifestBytes)
	if err != nil {
		k.Log.Warn("read the configuration of an image", "image", rec.Name, "err", err)
		return img
	}
	if cfg.Created != nil && cfg.Created.Unix() > 0 { // reproducible images say year 1 or 1970
		img.CreatedAt = timestamppb.New(*cfg.Created)
	}
	img.UnpackedBytes = uint64(max(k.unpackedBytes(ctx, cfg), 0))
	return img
}

// Inspect shows one image with its configuration.
func (k *Keeper) Inspect(ctx context.Context, ref string) (*wherryv1.InspectImageResponse, error) {
	ctx = k.inNamespace(ctx)
	rec, err := k.findRecord(ctx, ref)
	if err != nil {
		return nil, err
	}
	img, err := k.apiImage(ctx, rec)
	if err != nil {
		return nil, err
	}
	cfg, err := readJSON[imageConfig](ctx, k.Stores.Content, digest.Digest(rec.Labels[labelConfig]), k.Limits.ManifestBytes)
	if err != nil {
		return nil, fmt.Errorf("read the configuration of image %s: %w", ref, err)
	}
	out := &wherryv1.InspectImageResponse{Image: img, Config: apiConfig(&cfg)}
	for _, d := range cfg.RootFS.DiffIDs {
		out.Layers = append(out.Layers, d.String())
	}
	return out, nil
}

// Tag gives an image one more name, taking it from the image that had it.
func (k *Keeper) Tag(ctx context.Context, ref, name string) error {
	ctx = k.inNamespace(ctx)
	named, err := parseImageName(name)
	if err != nil {
		return err
	}
	if strings.Contains(named.String(), "@") {
		return fmt.Errorf("%w: %q has a digest; a name to give has only a tag", ErrInvalid, name)
	}
	unlock, err := k.names.lock(ctx, named.String())
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := k.findRecord(ctx, ref)
	if err != nil {
		return err
	}
	// The lease keeps the content while its only record may be on the way out.
	return k.leased(ctx, named.String(), func(ctx context.Context) error {
		if err := k.point(ctx, images.Image{Name: named.String(), Target: rec.Target, Labels: rec.Labels}); err != nil {
			return err
		}
		k.Event("tag", rec.Labels[labelConfig], familiarName(named.String()))
		return nil
	})
}
