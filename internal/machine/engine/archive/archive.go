// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package archive reads image archives as they arrive: an OCI image layout or
// what docker save writes, old and new, as tar, gzip- or zstd-compressed.
//
// It owns nothing: blobs go straight to the content store given to it, under
// the caller's lease, while the archive streams by; only the small documents
// that name them are held in memory. It is believed nothing: blobs are stored
// under the digest of what they are, entries are counted, documents bounded.
// When it fails, what it stored is the lease's to drop.
package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Limits bound one archive.
type Limits struct {
	Entries  int   // 0: 20,000
	Document int64 // index.json and manifest.json; 0: 4 MiB
	// Room is asked every few megabytes whether more may be stored. Nil: always.
	Room func(need int64) error
}

// Image is one image in an archive. Its content is in the store.
type Image struct {
	Target ocispec.Descriptor // manifest or index
	Names  []string           // as the archive gives them
}

// Import reads an archive to its end and returns its images.
func Import(ctx context.Context, store content.Store, r io.Reader, l Limits) ([]Image, error) {
	if l.Entries == 0 {
		l.Entries = 20_000
	}
	if l.Document == 0 {
		l.Document = 4 << 20
	}
	if l.Room == nil {
		l.Room = func(int64) error { return nil }
	}
	plain, err := decompress(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	t := &taker{store: store, limits: l, blobs: map[string]ocispec.Descriptor{}, links: map[string]string{}, documents: map[string][]byte{}}
	if err := t.take(ctx, tar.NewReader(plain)); err != nil {
		return nil, err
	}
	if _, ok := t.documents[ocispec.ImageLayoutFile]; ok {
		return t.layout()
	}
	if b, ok := t.documents["manifest.json"]; ok {
		return t.saved(ctx, b)
	}
	return nil, errors.New("not an image archive: it has neither an oci-layout nor a manifest.json")
}

// decompress recognises the whole archive's compression.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, err := b.Peek(4)
	if len(head) == 0 {
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read archive: %w", err)
		}
		return nil, errors.New("archive is empty")
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, fmt.Errorf("archive is not valid gzip: %w", err)
		}
		return z, nil
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, fmt.Errorf("archive is not valid zstd: %w", err)
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(b), nil
}

// taker stores an archive's entries.
type taker struct {
	store     content.Store
	limits    Limits
	blobs     map[string]ocispec.Descriptor // by name in the archive
	links     map[string]string             // docker save repeats a layer as a symbolic link
	documents map[string][]byte
	stored    int64 // since room was asked for
}

func (t *taker) take(ctx context.Context, r *tar.Reader) error {
	for n := 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
		if n >= t.limits.Entries {
			return fmt.Errorf("archive has more than %d entries", t.limits.Entries)
		}
		if err := t.entry(ctx, h, r); err != nil {
			return fmt.Errorf("archive entry %.100q: %w", h.Name, err)
		}
	}
}

func (t *taker) entry(ctx context.Context, h *tar.Header, r io.Reader) error {
	if len(h.Name) > 4096 || len(h.Linkname) > 4096 {
		return errors.New("name is too long")
	}
	name := path.Clean(h.Name)
	switch h.Typeflag {
	case tar.TypeSymlink:
		t.links[name] = path.Join(path.Dir(name), h.Linkname)
		return nil
	case tar.TypeReg:
	default:
		return nil
	}
	switch name {
	case ocispec.ImageLayoutFile, ocispec.ImageIndexFile, "manifest.json":
		return t.document(name, r)
	case "repositories":
		return nil
	}
	d, err := t.blob(ctx, h, r)
	if err != nil {
		return err
	}
	if want, ok := blobDigest(name); ok && want != d.Digest {
		return errors.New("content is not what its name says")
	}
	t.blobs[name] = d
	return nil
}

// blobDigest reads the digest out of a layout's blob name. SHA-512 blobs are
// stored, and looked up, by SHA-256 only, and so not found.
func blobDigest(name string) (digest.Digest, bool) {
	hex, ok := strings.CutPrefix(name, "blobs/sha256/")
	d := digest.NewDigestFromEncoded(digest.SHA256, hex)
	return d, ok && d.Validate() == nil
}

func (t *taker) document(name string, r io.Reader) error {
	if _, ok := t.documents[name]; ok {
		return errors.New("is there twice")
	}
	b, err := io.ReadAll(io.LimitReader(r, t.limits.Document+1))
	if err != nil {
		return err
	}
	if int64(len(b)) > t.limits.Document {
		return fmt.Errorf("is larger than %d bytes", t.limits.Document)
	}
	t.documents[name] = b
	return nil
}

// askRoomEvery is how many bytes are stored between two looks at the disk.
const askRoomEvery = 16 << 20

func (t *taker) blob(ctx context.Context, h *tar.Header, r io.Reader) (ocispec.Descriptor, error) {
	if t.stored += h.Size; t.stored >= askRoomEvery {
		t.stored = 0
		if err := t.limits.Room(h.Size); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	return store(ctx, t.store, r, h.Size, "")
}

// store writes a blob of a known size and returns it under its own digest.
func store(ctx context.Context, s content.Store, r io.Reader, size int64, mediaType string) (d ocispec.Descriptor, err error) {
	ref := "archive-" + rand.Text()
	w, err := content.OpenWriter(ctx, s, content.WithRef(ref), content.WithDescriptor(ocispec.Descriptor{Size: size}))
	if err != nil {
		return d, fmt.Errorf("open the content store: %w", err)
	}
	defer func() {
		w.Close()
		if err != nil {
			// Best effort: the lease's end removes it too.
			_ = s.Abort(context.WithoutCancel(ctx), ref)
		}
	}()
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, ctxReader{ctx, r}, make([]byte, 64<<10))
	if err != nil {
		return d, fmt.Errorf("store: %w", err)
	}
	if n != size {
		return d, fmt.Errorf("ended after %d of %d bytes: %w", n, size, io.ErrUnexpectedEOF)
	}
	d = ocispec.Descriptor{Digest: w.Digest(), Size: size, MediaType: mediaType}
	if err := w.Commit(ctx, size, d.Digest); err != nil && !errdefs.IsAlreadyExists(err) {
		return d, fmt.Errorf("store: %w", err)
	}
	return d, nil
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// strictJSON decodes one document.
func strictJSON(name string, b []byte, v any) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s is not valid: %w", name, err)
	}
	return nil
}
