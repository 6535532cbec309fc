// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// chosenImage is one platform's image, its documents read and checked, its
// layers not yet looked at.
type chosenImage struct {
	target   ocispec.Descriptor // what the name points at
	path     []ocispec.Descriptor
	manifest ocispec.Manifest
	config   ocispec.Image
}

// manifestDesc is the last step from the target down: the manifest itself.
func (c chosenImage) manifestDesc() ocispec.Descriptor { return c.path[len(c.path)-1] }

// document fetches a bounded document whose digest was verified.
type document func(ctx context.Context, desc ocispec.Descriptor, what string) ([]byte, error)

// chooseImage walks from what a name points at to the manifest for a platform
// and checks everything that can be checked before a layer is fetched.
func (k *Keeper) chooseImage(ctx context.Context, target ocispec.Descriptor, p ocispec.Platform, get document) (chosenImage, error) {
	c := chosenImage{target: target}
	matcher := platforms.Only(p)
	desc := target
	for depth := 0; ; depth++ {
		if depth > k.Limits.IndexDepth {
			return c, fmt.Errorf("%w: indexes are nested more than %d deep", ErrBadImage, k.Limits.IndexDepth)
		}
		c.path = append(c.path, desc)
		if images.IsManifestType(desc.MediaType) {
			break
		}
		if !images.IsIndexType(desc.MediaType) {
			return c, fmt.Errorf("%w: %s is no image: its media type is %.100q%s", ErrBadImage, desc.Digest, desc.MediaType, schema1Hint(desc.MediaType))
		}
		b, err := get(ctx, desc, "index")
		if err != nil {
			return c, err
		}
		if desc, err = chooseFromIndex(b, matcher, p); err != nil {
			return c, fmt.Errorf("%w: %w", ErrBadImage, err)
		}
	}
	if err := k.readManifest(ctx, &c, get); err != nil {
		return c, err
	}
	if err := checkConfig(c.config, len(c.manifest.Layers)); err != nil {
		return c, fmt.Errorf("%w: %w", ErrBadImage, err)
	}
	if err := checkPlatform(c.config, matcher, p); err != nil {
		return c, fmt.Errorf("%w: %w", ErrBadImage, err)
	}
	return c, nil
}

func schema1Hint(mediaType string) string {
	if mediaType == images.MediaTypeDockerSchema1Manifest {
		return " (schema 1, obsolete since 2017: push the image again with a current tool)"
	}
	return ""
}

func (k *Keeper) readManifest(ctx context.Context, c *chosenImage, get document) error {
	b, err := get(ctx, c.manifestDesc(), "manifest")
	if err != nil {
		return err
	}
	if c.manifest, err = parseManifest(b, k.Limits); err != nil {
		return fmt.Errorf("%w: manifest %s: %w", ErrBadImage, c.manifestDesc().Digest, err)
	}
	if b, err = get(ctx, c.manifest.Config, "configuration"); err != nil {
		return err
	}
	if err := json.Unmarshal(b, &c.config); err != nil {
		return fmt.Errorf("%w: configuration %s is not valid: %w", ErrBadImage, c.manifest.Config.Digest, err)
	}
	return nil
}

// parseManifest reads a manifest and refuses what is no container image.
func parseManifest(b []byte, l Limits) (ocispec.Manifest, error) {
	var both struct {
		ocispec.Manifest
		Manifests []json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(b, &both); err != nil {
		return ocispec.Manifest{}, fmt.Errorf("not valid: %w", err)
	}
	m := both.Manifest
	switch {
	case m.SchemaVersion == 1:
		return m, errors.New("schema 1 is not supported" + schema1Hint(images.MediaTypeDockerSchema1Manifest))
	case both.Manifests != nil:
		return m, errors.New("is a manifest and an index at once")
	case !images.IsConfigType(m.Config.MediaType):
		return m, fmt.Errorf("is no container image: its configuration has media type %.100q", m.Config.MediaType)
	case len(m.Layers) > l.Layers:
		return m, fmt.Errorf("has %d layers; at most %d are accepted", len(m.Layers), l.Layers)
	}
	if err := checkDescriptor(m.Config); err != nil {
		return m, fmt.Errorf("configuration: %w", err)
	}
	for i, d := range m.Layers {
		if err := checkLayer(d); err != nil {
			return m, fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	return m, nil
}

var layerTypes = []string{
	images.MediaTypeDockerSchema2Layer, images.MediaTypeDockerSchema2LayerGzip, images.MediaTypeDockerSchema2LayerZstd,
	ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd,
}

func checkLayer(d ocispec.Descriptor) error {
	if !slices.Contains(layerTypes, d.MediaType) {
		if images.IsNonDistributable(d.MediaType) {
			return fmt.Errorf("is foreign (%s): layers are only fetched from the image's own registry", d.MediaType)
		}
		return fmt.Errorf("media type %.100q is not supported", d.MediaType)
	}
	return checkDescriptor(d)
}

func checkDescriptor(d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %.100q: %w", d.Digest.String(), err)
	}
	if a := d.Digest.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return fmt.Errorf("digest %.100q: only sha256 and sha512 are trusted", d.Digest.String())
	}
	if d.Size < 0 {
		return fmt.Errorf("size %d is negative", d.Size)
	}
	return nil
}

// checkConfig refuses configurations that do not belong to that many layers.
func checkConfig(c ocispec.Image, layers int) error {
	if len(c.RootFS.DiffIDs) != layers {
		return fmt.Errorf("configuration lists %d layers, the manifest %d", len(c.RootFS.DiffIDs), layers)
	}
	for i, d := range c.RootFS.DiffIDs {
		if err := checkDescriptor(ocispec.Descriptor{Digest: d}); err != nil {
			return fmt.Errorf("configuration: diff id %d: %w", i+1, err)
		}
	}
	return nil
}

// checkPlatform refuses an image whose programs the asked-for platform cannot run.
func checkPlatform(c ocispec.Image, m platforms.MatchComparer, want ocispec.Platform) error {
	if c.OS == "" && c.Architecture == "" { // made by tools that do not say
		return nil
	}
	got := platforms.Normalize(ocispec.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant})
	if m.Match(got) {
		return nil
	}
	return fmt.Errorf("image is for %s, not for %s", platforms.Format(got), platforms.Format(want))
}

// chooseFromIndex picks the best match for the platform.
func chooseFromIndex(b []byte, m platforms.MatchComparer, want ocispec.Platform) (ocispec.Descriptor, error) {
	var both struct {
		ocispec.Index
		Layers []json.RawMessage   `json:"layers"`
		Config *ocispec.Descriptor `json:"config"`
	}
	if err := json.Unmarshal(b, &both); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("index is not valid: %w", err)
	}
	if both.Layers != nil || both.Config != nil {
		return ocispec.Descriptor{}, errors.New("index is a manifest at once")
	}
	var fit, unsaid []ocispec.Descriptor
	for _, d := range both.Manifests {
		switch {
		case d.Platform == nil:
			unsaid = append(unsaid, d)
		case m.Match(*d.Platform):
			fit = append(fit, d)
		}
	}
	slices.SortStableFunc(fit, func(a, b ocispec.Descriptor) int {
		switch {
		case m.Less(*a.Platform, *b.Platform):
			return -1
		case m.Less(*b.Platform, *a.Platform):
			return 1
		}
		return 0
	})
	// An index of one image that names no platform is how some tools write a single image.
	if len(fit) == 0 && len(both.Manifests) == 1 {
		fit = unsaid
	}
	if len(fit) == 0 {
		return ocispec.Descriptor{}, fmt.Errorf("image has no variant for %s; it has %s", platforms.Format(want), availablePlatforms(both.Manifests))
	}
	return fit[0], checkDescriptor(fit[0])
}

func availablePlatforms(all []ocispec.Descriptor) string {
	var names []string
	for _, d := range all {
		if d.Platform == nil || d.Platform.OS == "unknown" {
			continue
		}
		if s := platforms.Format(*d.Platform); !slices.Contains(names, s) {
			names = append(names, s)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	const most = 20
	if len(names) > most {
		names = append(names[:most], "…")
	}
	return strings.Join(names, ", ")
}

// parsePlatform reads the platform of a request; empty is the machine's.
func parsePlatform(s string) (ocispec.Platform, error) {
	if s == "" {
		return platforms.DefaultSpec(), nil
	}
	if len(s) > 100 {
		return ocispec.Platform{}, fmt.Errorf("platform %.20q… is %d bytes long", s, len(s))
	}
	p, err := platforms.Parse(s)
	if err != nil {
		return p, fmt.Errorf("platform %q: %w", s, err)
	}
	if p.OS != "linux" {
		return p, fmt.Errorf("platform %q: only linux runs here", s)
	}
	return p, nil
}
