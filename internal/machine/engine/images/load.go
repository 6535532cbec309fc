// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/machine/engine/archive"
)

// loaded is an image of an archive, unpacked but not recorded yet.
type loaded struct {
	image chosenImage
	names []string
}

// Load reads an image archive: all its images or, when one is bad, none.
func (k *Keeper) Load(ctx context.Context, r io.Reader) ([]*wherryv1.Image, error) {
	ctx = k.inNamespace(ctx)
	var out []*wherryv1.Image
	err := k.leased(ctx, "load "+rand.Text(), func(ctx context.Context) error {
		found, err := archive.Import(ctx, k.Stores.Content, r, archive.Limits{Room: k.room, Document: k.Limits.ManifestBytes})
		if err != nil {
			return badArchive(ctx, err)
		}
		var all []loaded
		for _, f := range found {
			l, err := k.unpackLoaded(ctx, f)
			if err != nil {
				return err
			}
			all = append(all, l)
		}
		for _, l := range all {
			img, err := k.recordLoaded(ctx, l)
			if err != nil {
				return err
			}
			out = append(out, img)
		}
		return nil
	})
	return out, err
}

func badArchive(ctx context.Context, err error) error {
	err = asDiskFull(err)
	if ctx.Err() != nil || errors.Is(err, ErrDiskFull) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrBadImage, shorten(err))
}

// unpackLoaded is a pull whose content is there already.
func (k *Keeper) unpackLoaded(ctx context.Context, f archive.Image) (loaded, error) {
	l := loaded{}
	for _, n := range f.Names {
		named, err := parseImageName(n)
		if err != nil {
			return l, fmt.Errorf("%w: %w", ErrBadImage, err)
		}
		l.names = append(l.names, named.String())
	}
	p, err := parsePlatform("")
	if err != nil {
		return l, err
	}
	if l.image, err = k.chooseImage(ctx, f.Target, p, k.storedDocument); err != nil {
		return l, err
	}
	return l, k.install(ctx, l.image, k.storedLayer, nil)
}

func (k *Keeper) storedDocument(ctx context.Context, d ocispec.Descriptor, what string) ([]byte, error) {
	b, err := readBlob(ctx, k.Stores.Content, d.Digest, k.Limits.ManifestBytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrBadImage, what, lacking(d, err))
	}
	return b, nil
}

func (k *Keeper) storedLayer(ctx context.Context, d ocispec.Descriptor) error {
	info, err := k.Stores.Content.Info(ctx, d.Digest)
	if err != nil {
		return fmt.Errorf("%w: layer: %w", ErrBadImage, lacking(d, err))
	}
	if info.Size != d.Size {
		return fmt.Errorf("%w: layer %s has %d bytes, not the %d that the manifest says", ErrBadImage, d.Digest, info.Size, d.Size)
	}
	return nil
}

func lacking(d ocispec.Descriptor, err error) error {
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("archive lacks %s", d.Digest)
	}
	return err
}

// recordLoaded gives an image its names, or none, and tells about it.
func (k *Keeper) recordLoaded(ctx context.Context, l loaded) (*wherryv1.Image, error) {
	names := l.names
	if len(names) == 0 {
		same, err := k.sameImage(ctx, l.image.manifest.Config.Digest.String())
		if err != nil {
			return nil, err
		}
		if len(same) > 0 { // known, by whatever name
			return k.apiImage(ctx, same[0])
		}
		names = []string{namelessRecord(l.image.target.Digest)}
	}
	var out *wherryv1.Image
	for _, n := range names {
		unlock, err := k.names.lock(ctx, n)
		if err != nil {
			return nil, err
		}
		rec, err := k.record(ctx, n, l.image)
		unlock()
		if err != nil {
			return nil, err
		}
		k.Event("load", rec.Labels[labelConfig], familiarName(rec.Name))
		if out, err = k.apiImage(ctx, rec); err != nil {
			return nil, err
		}
	}
	return out, nil
}
