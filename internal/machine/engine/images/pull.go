// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/machine/engine/registry"
)

// Pull brings an image to the machine and tells how it goes through send, which
// is called by this goroutine only. When send fails, the pull ends.
func (k *Keeper) Pull(ctx context.Context, req *wherryv1.PullImageRequest, send func(*wherryv1.PullImageResponse) error) error {
	ctx, cancel := context.WithCancel(k.inNamespace(ctx))
	defer cancel()
	job, err := k.newPull(req)
	if err != nil {
		return err
	}
	type result struct {
		image *wherryv1.Image
		err   error
	}
	done := make(chan result, 1)
	go func() {
		img, err := job.run(ctx)
		done <- result{img, err}
	}()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	var sendErr error
	for {
		select {
		case <-tick.C:
			if m := job.progress.take(); m != nil && sendErr == nil {
				if sendErr = send(m); sendErr != nil {
					cancel() // and wait for the pull to clean up
				}
			}
		case r := <-done:
			if sendErr != nil {
				return fmt.Errorf("caller is gone: %w", sendErr)
			}
			if r.err != nil {
				return asDiskFull(r.err)
			}
			last := job.progress.take()
			if last == nil {
				last = &wherryv1.PullImageResponse{}
			}
			last.Status, last.Image = "done", r.image
			return send(last)
		}
	}
}

// pull is one pull under way.
type pull struct {
	k        *Keeper
	named    reference.Named
	host     string
	auth     registry.Auth
	platform ocispec.Platform
	missing  bool
	progress *progress
}

func (k *Keeper) newPull(req *wherryv1.PullImageRequest) (*pull, error) {
	named, err := parseImageName(req.GetImage())
	if err != nil {
		return nil, err
	}
	p, err := parsePlatform(req.GetPlatform())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	a := req.GetAuth()
	return &pull{
		k: k, named: named, host: reference.Domain(named), platform: p, missing: req.GetMissingOnly(), progress: newProgress(),
		auth: registry.Auth{Username: a.GetUsername(), Password: a.GetPassword(), IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken()},
	}, nil
}

func (p *pull) run(ctx context.Context) (*wherryv1.Image, error) {
	// Two pulls of one name: the second waits, then finds everything there.
	unlock, err := p.k.names.lock(ctx, p.named.String())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if p.missing {
		if img, err := p.present(ctx); img != nil || err != nil {
			return img, err
		}
	}
	var rec images.Image
	err = p.k.leased(ctx, p.named.String(), func(ctx context.Context) error {
		p.progress.setStatus("resolving")
		c, fetch, err := p.resolve(ctx)
		if err != nil {
			return err
		}
		p.progress.setStatus("pulling")
		if err := p.k.install(ctx, c, fetch.layer, p.progress); err != nil {
			return err
		}
		rec, err = p.k.record(ctx, p.named.String(), c)
		return err
	})
	if err != nil {
		return nil, err
	}
	p.k.Event("pull", rec.Labels[labelConfig], familiarName(rec.Name))
	return p.k.apiImage(ctx, rec)
}

// present answers with the image when it is on the machine already, for that platform.
func (p *pull) present(ctx context.Context) (*wherryv1.Image, error) {
	rec, err := p.k.findRecord(ctx, p.named.String())
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if got, err := parsePlatform(rec.Labels[labelPlatform]); err != nil || got.Architecture != p.platform.Architecture {
		return nil, nil
	}
	return p.k.apiImage(ctx, rec)
}

// resolve asks the registry what the name points at and reads all but the layers.
func (p *pull) resolve(ctx context.Context) (chosenImage, *blobFetcher, error) {
	ways, err := p.resolvers()
	if err != nil {
		return chosenImage{}, nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	_, target, err := ways[0].Resolve(ctx, p.named.String())
	if err != nil {
		return chosenImage{}, nil, explain(p.host, err)
	}
	if err := checkDescriptor(target); err != nil {
		return chosenImage{}, nil, fmt.Errorf("%w: registry's answer: %w", ErrBadImage, err)
	}
	f := &blobFetcher{k: p.k, host: p.host, progress: p.progress}
	for _, w := range ways {
		fetcher, err := w.Fetcher(ctx, p.named.String())
		if err != nil {
			return chosenImage{}, nil, err
		}
		f.fetchers = append(f.fetchers, fetcher)
	}
	c, err := p.k.chooseImage(ctx, target, p.platform, f.document)
	return c, f, err
}

// resolvers are the ways to ask: through the mirrors, and, for a blob whose
// mirror breaks off again and again, the registry alone.
func (p *pull) resolvers() ([]remotes.Resolver, error) {
	o := registry.Options{
		Registries: p.k.Registries(), Host: p.host, Auth: p.auth, Timeouts: p.k.Timeouts,
		UserAgent: p.k.UserAgent, MaxManifest: p.k.Limits.ManifestBytes,
	}
	first, err := registry.Resolver(o)
	if err != nil {
		return nil, err
	}
	if !registry.HasMirrors(o.Registries, p.host) {
		return []remotes.Resolver{first}, nil
	}
	o.SkipMirrors = true
	second, err := registry.Resolver(o)
	return []remotes.Resolver{first, second}, err
}
