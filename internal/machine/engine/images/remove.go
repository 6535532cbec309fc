// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"wherry.example/wherry/api/wherryv1"
)

// Remove takes a name from an image and removes the image with its last name.
// Given by id, it takes all names. An image that containers were made from is
// not removed: with force it loses its names only, so that they can start again.
func (k *Keeper) Remove(ctx context.Context, ref string, force bool) (*wherryv1.RemoveImageResponse, error) {
	ctx = k.inNamespace(ctx)
	rec, err := k.findRecord(ctx, ref)
	if err != nil {
		return nil, err
	}
	id := rec.Labels[labelConfig]
	same, err := k.sameImage(ctx, id)
	if err != nil {
		return nil, err
	}
	doomed := same
	if named, err := parseImageName(ref); err == nil && named.String() == rec.Name {
		doomed = []images.Image{rec}
	}
	last := len(doomed) == len(same)
	users := k.UsedBy(digest.Digest(id))
	if err := removable(ref, doomed, users, last, force); err != nil {
		return nil, err
	}
	out := &wherryv1.RemoveImageResponse{}
	if last && len(users) > 0 {
		out.Untagged, err = k.untag(ctx, doomed)
		return out, err
	}
	for _, r := range doomed {
		if err := k.deleteRecord(ctx, r); err != nil {
			return out, err
		}
		if !isNameless(r.Name) {
			out.Untagged = append(out.Untagged, familiarName(r.Name))
		}
	}
	if last {
		out.Deleted = []string{id}
		k.Event("delete", id, familiarName(rec.Name))
	}
	return out, k.collect(ctx)
}

func removable(ref string, doomed []images.Image, users []string, last, force bool) error {
	if force {
		return nil
	}
	if last && len(users) > 0 {
		return fmt.Errorf("%w: %s, by container %s; remove the container first, or force", ErrInUse, ref, shortID(users[0]))
	}
	named := slices.DeleteFunc(slices.Clone(doomed), func(r images.Image) bool { return isNameless(r.Name) })
	if len(named) > 1 {
		return fmt.Errorf("%w: %s has %d names; remove it by name, or force", ErrInUse, ref, len(named))
	}
	return nil
}

func shortID(id string) string { return id[:min(len(id), 12)] }

// untag turns the last names of an image in use into a nameless record.
func (k *Keeper) untag(ctx context.Context, recs []images.Image) (names []string, err error) {
	is := k.Stores.Images
	r := recs[0]
	_, err = is.Create(ctx, images.Image{Name: namelessRecord(r.Target.Digest), Target: r.Target, Labels: r.Labels})
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return nil, fmt.Errorf("keep image %s without a name: %w", r.Name, err)
	}
	for _, r := range recs {
		if isNameless(r.Name) {
			continue
		}
		if err := k.deleteRecord(ctx, r); err != nil {
			return names, err
		}
		names = append(names, familiarName(r.Name))
		k.Event("untag", r.Labels[labelConfig], familiarName(r.Name))
	}
	return names, nil
}

func (k *Keeper) deleteRecord(ctx context.Context, r images.Image) error {
	err := k.Stores.Images.Delete(ctx, r.Name)
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove image %s: %w", familiarName(r.Name), err)
	}
	return nil
}

// Prune removes images that no container was made from: those without a name,
// or all. Parts of broken pulls go too.
func (k *Keeper) Prune(ctx context.Context, all bool) (*wherryv1.PruneImagesResponse, error) {
	ctx = k.inNamespace(ctx)
	recs, err := k.records(ctx)
	if err != nil {
		return nil, err
	}
	before := k.usage(ctx)
	names := map[string][]images.Image{}
	for _, r := range recs {
		names[r.Labels[labelConfig]] = append(names[r.Labels[labelConfig]], r)
	}
	out := &wherryv1.PruneImagesResponse{}
	for id, rs := range names {
		nameless := !slices.ContainsFunc(rs, func(r images.Image) bool { return !isNameless(r.Name) })
		if len(k.UsedBy(digest.Digest(id))) > 0 || !all && !nameless {
			continue
		}
		for _, r := range rs {
			if err := k.deleteRecord(ctx, r); err != nil {
				return out, err
			}
		}
		out.Deleted = append(out.Deleted, id)
		k.Event("delete", id, "")
	}
	slices.Sort(out.Deleted)
	k.dropParts(ctx, "")
	if err := k.collect(ctx); err != nil {
		return out, err
	}
	out.FreedBytes = uint64(max(before-k.usage(ctx), 0))
	return out, nil
}

// collect removes, now, what nothing refers to.
func (k *Keeper) collect(ctx context.Context) error {
	if err := k.Stores.Collect(ctx); err != nil {
		return fmt.Errorf("free the space of removed images: %w", err)
	}
	return nil
}

// usage is what content and snapshots take, as far as it can be told.
func (k *Keeper) usage(ctx context.Context) int64 {
	sum := int64(0)
	sn := k.Stores.Snapshots
	err := sn.Walk(ctx, func(ctx context.Context, i snapshots.Info) error {
		if i.Kind == snapshots.KindCommitted {
			if u, err := sn.Usage(ctx, i.Name); err == nil {
				sum += u.Size
			}
		}
		return nil
	})
	if err != nil {
		k.Log.Warn("measure snapshots", "err", err)
	}
	err = k.Stores.Content.Walk(ctx, func(i content.Info) error { sum += i.Size; return nil })
	if err != nil {
		k.Log.Warn("measure content", "err", err)
	}
	return sum
}
