// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"io"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/machine/engine/images"
)

// resolvedImage is an image on the machine, ready to make a container from.
type resolvedImage = images.Resolved

// newImages makes the keeper of images once the stores are open.
func (e *Engine) newImages() *images.Keeper {
	return images.New(images.Options{
		Stores:     e.stores.Stores,
		Namespace:  imageNamespace,
		Root:       filepath.Join(e.opts.Root, "containerd"),
		Registries: func() []config.Registry { return e.settings.Load().Registries },
		Log:        e.log,
		UsedBy:     e.containersOf,
		Event: func(action, id, name string) {
			e.Publish(&wherryv1.Event{Kind: "image", Action: action, Id: id, Name: name})
		},
		UserAgent: "wherry",
	})
}

// containersOf lists the containers that were made from an image; of system
// containers it says only that there are some.
func (e *Engine) containersOf(id digest.Digest) []string {
	var out []string
	system := false
	for _, c := range e.table.all() {
		switch {
		case c.record().Image.ID != id.String():
		case c.system:
			system = true
		default:
			out = append(out, c.id)
		}
	}
	if system {
		out = append(out, "system")
	}
	return out
}

// resolveImage finds an image by name, digest or id. It does not pull.
func (e *Engine) resolveImage(ctx context.Context, ref string) (resolvedImage, error) {
	r, err := e.images.Resolve(ctx, ref)
	return r, imageError(err)
}

// PullImage brings an image to the machine. It calls send from this goroutine,
// a few times a second at most, and once more with the image at the end.
func (e *Engine) PullImage(ctx context.Context, req *wherryv1.PullImageRequest, send func(*wherryv1.PullImageResponse) error) error {
	return imageError(e.images.Pull(ctx, req, send))
}

// LoadImages reads an image archive: all its images or none.
func (e *Engine) LoadImages(ctx context.Context, r io.Reader) ([]*wherryv1.Image, error) {
	l, err := e.images.Load(ctx, r)
	return l, imageError(err)
}

// ListImages lists images; the filter is a part of the name.
func (e *Engine) ListImages(ctx context.Context, req *wherryv1.ListImagesRequest) ([]*wherryv1.Image, error) {
	l, err := e.images.List(ctx, req.GetNameFilter())
	return l, imageError(err)
}

// InspectImage shows one image with its configuration.
func (e *Engine) InspectImage(ctx context.Context, ref string) (*wherryv1.InspectImageResponse, error) {
	r, err := e.images.Inspect(ctx, ref)
	return r, imageError(err)
}

// TagImage gives an image one more name.
func (e *Engine) TagImage(ctx context.Context, ref, name string) error {
	return imageError(e.images.Tag(ctx, ref, name))
}

// RemoveImage takes a name away, and the image with its last name.
func (e *Engine) RemoveImage(ctx context.Context, ref string, force bool) (*wherryv1.RemoveImageResponse, error) {
	r, err := e.images.Remove(ctx, ref, force)
	return r, imageError(err)
}

// PruneImages removes images that no container was made from.
func (e *Engine) PruneImages(ctx context.Context, all bool) (*wherryv1.PruneImagesResponse, error) {
	r, err := e.images.Prune(ctx, all)
	return r, imageError(err)
}

// imageKinds sorts the errors of package images; the first that fits counts.
var imageKinds = []struct {
	err  error
	kind Kind
}{
	{images.ErrDiskFull, KindResourceExhausted},
	{images.ErrBadImage, KindInvalid},
	{images.ErrInvalid, KindInvalid},
	{images.ErrInUse, KindConflict},
	{images.ErrDenied, KindPermission},
	{images.ErrNotFound, KindNotFound},
	{images.ErrRegistry, KindUnavailable},
}

func imageError(err error) error {
	if err == nil {
		return nil
	}
	for _, k := range imageKinds {
		if errors.Is(err, k.err) {
			return withKind(k.kind, err)
		}
	}
	return err
}
