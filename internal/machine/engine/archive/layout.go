// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxImages bounds the images and names of one archive.
const maxImages = 200

// layout interprets an OCI image layout.
func (t *taker) layout() ([]Image, error) {
	var layout ocispec.ImageLayout
	if err := strictJSON("oci-layout", t.documents[ocispec.ImageLayoutFile], &layout); err != nil {
		return nil, err
	}
	if layout.Version != ocispec.ImageLayoutVersion {
		return nil, fmt.Errorf("OCI layout version %.20q is not supported", layout.Version)
	}
	b, ok := t.documents[ocispec.ImageIndexFile]
	if !ok {
		return nil, errors.New("OCI layout without index.json")
	}
	var index ocispec.Index
	if err := strictJSON("index.json", b, &index); err != nil {
		return nil, err
	}
	if len(index.Manifests) == 0 {
		return nil, errors.New("archive holds no image")
	}
	if len(index.Manifests) > maxImages {
		return nil, fmt.Errorf("archive holds %d images; at most %d are accepted", len(index.Manifests), maxImages)
	}
	var out []Image
	for _, d := range index.Manifests {
		if !t.has(d.Digest) {
			return nil, fmt.Errorf("archive lacks the manifest %.100s that its index names", d.Digest)
		}
		out = add(out, ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}, nameOf(d))
	}
	return out, nil
}

func (t *taker) has(d digest.Digest) bool {
	for _, b := range t.blobs {
		if b.Digest == d {
			return true
		}
	}
	return false
}

// nameOf reads the name that tools write beside a manifest. A bare tag is no name.
func nameOf(d ocispec.Descriptor) string {
	if n := d.Annotations[images.AnnotationImageName]; n != "" {
		return n
	}
	if n := d.Annotations[ocispec.AnnotationRefName]; strings.ContainsAny(n, "/:") {
		return n
	}
	return ""
}

// add joins the names of one manifest.
func add(all []Image, d ocispec.Descriptor, name string) []Image {
	i := slices.IndexFunc(all, func(i Image) bool { return i.Target.Digest == d.Digest })
	if i < 0 {
		all = append(all, Image{Target: d})
		i = len(all) - 1
	}
	if name != "" && !slices.Contains(all[i].Names, name) {
		all[i].Names = append(all[i].Names, name)
	}
	return all
}

// saved interprets what docker save wrote before it wrote OCI layouts: there
// are no manifests in it, so they are made here.
func (t *taker) saved(ctx context.Context, b []byte) ([]Image, error) {
	var list []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := strictJSON("manifest.json", b, &list); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errors.New("archive holds no image")
	}
	var out []Image
	for _, e := range list {
		if len(out) > maxImages || len(e.RepoTags) > maxImages || len(e.Layers) > 1000 {
			return nil, errors.New("archive lists too many images, names or layers")
		}
		d, err := t.manifest(ctx, e.Config, e.Layers)
		if err != nil {
			return nil, err
		}
		out = add(out, d, "")
		for _, n := range e.RepoTags {
			out = add(out, d, n)
		}
	}
	return out, nil
}

func (t *taker) manifest(ctx context.Context, config string, layers []string) (ocispec.Descriptor, error) {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	var err error
	if m.Config, err = t.find(config); err != nil {
		return m.Config, err
	}
	m.Config.MediaType = ocispec.MediaTypeImageConfig
	for _, name := range layers {
		d, err := t.find(name)
		if err != nil {
			return d, err
		}
		if d.MediaType, err = t.layerType(ctx, d); err != nil {
			return d, err
		}
		m.Layers = append(m.Layers, d)
	}
	b, err := json.Marshal(m)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return store(ctx, t.store, bytes.NewReader(b), int64(len(b)), ocispec.MediaTypeImageManifest)
}

// find follows at most one symbolic link, as docker save writes them.
func (t *taker) find(name string) (ocispec.Descriptor, error) {
	if to, ok := t.links[name]; ok {
		name = to
	}
	d, ok := t.blobs[name]
	if !ok {
		return d, fmt.Errorf("archive lacks %.100q that its manifest.json names", name)
	}
	return d, nil
}

// layerType recognises a layer's compression.
func (t *taker) layerType(ctx context.Context, d ocispec.Descriptor) (string, error) {
	ra, err := t.store.ReaderAt(ctx, d)
	if err != nil {
		return "", fmt.Errorf("read layer %s: %w", d.Digest, err)
	}
	defer ra.Close()
	head := make([]byte, 4)
	n, err := io.ReadFull(content.NewReader(ra), head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read layer %s: %w", d.Digest, err)
	}
	switch head = head[:n]; {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return ocispec.MediaTypeImageLayerGzip, nil
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return ocispec.MediaTypeImageLayerZstd, nil
	}
	return ocispec.MediaTypeImageLayer, nil
}
