// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// unpackLayer makes the committed snapshot of layer i out of its content,
// unless it is there already. It holds either the whole layer, as the
// configuration's diff id says, or nothing.
func (k *Keeper) unpackLayer(ctx context.Context, c chosenImage, i int, budget *unpackBudget) error {
	if err := k.unpacks.Acquire(ctx, 1); err != nil {
		return err
	}
	defer k.unpacks.Release(1)
	var (
		sn     = k.Stores.Snapshots
		ids    = c.config.RootFS.DiffIDs
		chain  = identity.ChainID(ids[:i+1]).String()
		parent string
		key    = "unpack-" + rand.Text() + " " + chain
	)
	if i > 0 {
		parent = identity.ChainID(ids[:i]).String()
	}
	mounts, err := sn.Prepare(ctx, key, parent)
	if err != nil {
		return fmt.Errorf("prepare a snapshot: %w", err)
	}
	err = k.applyLayer(ctx, mounts, c.manifest.Layers[i], ids[i], budget)
	if err == nil {
		err = sn.Commit(ctx, chain, key)
	}
	if err == nil {
		return nil
	}
	if e := sn.Remove(context.WithoutCancel(ctx), key); e != nil && !errdefs.IsNotFound(e) {
		k.Log.Warn("remove a half-made snapshot", "key", key, "err", e)
	}
	if errdefs.IsAlreadyExists(err) { // another pull was faster
		return nil
	}
	return err
}

// applyLayer writes a layer below the upper directory of a snapshot that nothing has mounted yet.
func (k *Keeper) applyLayer(ctx context.Context, mounts []mount.Mount, desc ocispec.Descriptor, want digest.Digest, budget *unpackBudget) error {
	dir, opts, err := upperDir(mounts)
	if err != nil {
		return err
	}
	ra, err := k.Stores.Content.ReaderAt(ctx, desc)
	if err != nil {
		return fmt.Errorf("open layer: %w", err)
	}
	defer ra.Close()
	plain, err := decompress(content.NewReader(ra), desc.MediaType)
	if err != nil {
		return err
	}
	defer plain.Close()
	meter := budget.layer(desc.Size)
	if err := writeLayer(ctx, dir, meter, plain, want, opts); err != nil {
		return err
	}
	meter.done()
	// containerd's database is synced by itself: without this a power cut could
	// leave a snapshot that is committed and empty.
	return syncFS(dir)
}

// writeLayer applies an uncompressed layer and verifies that it was the right one.
func writeLayer(ctx context.Context, dir string, meter *layerMeter, plain io.Reader, want digest.Digest, opts []archive.ApplyOpt) error {
	verifier := want.Verifier()
	stream := io.TeeReader(meter.reader(plain), verifier)
	opts = append(opts, archive.WithFilter(layerFilter(meter)))
	if _, err := archive.Apply(ctx, dir, stream, opts...); err != nil {
		return fmt.Errorf("unpack: %w", shorten(hideDir(dir, err)))
	}
	if _, err := io.Copy(io.Discard, stream); err != nil { // padding after the archive's end
		return fmt.Errorf("unpack: %w", err)
	}
	if !verifier.Verified() {
		return fmt.Errorf("unpacked content is not what diff id %s says", want)
	}
	return nil
}

// shorten keeps hostile words from filling errors and logs: one line, bounded, and the cause intact.
func shorten(err error) error {
	const most = 500
	s := err.Error()
	short := strings.Join(strings.FieldsFunc(s, unicode.IsControl), " ")
	if len(short) > most {
		short = strings.ToValidUTF8(short[:most], "") + "…"
	}
	if short == s {
		return err
	}
	return &shortError{short, err}
}

// hideDir leaves the machine's own path out of what is said about a layer's entries.
func hideDir(dir string, err error) error {
	return &shortError{strings.ReplaceAll(err.Error(), dir, ""), err}
}

type shortError struct {
	text string
	err  error
}

func (e *shortError) Error() string { return e.text }
func (e *shortError) Unwrap() error { return e.err }

// layerFilter decides about each entry before it is written.
//
// Device nodes are left out: a container gets its devices from the runtime,
// and a node in an image could only serve to be opened from outside it.
// Attributes are kept where a container could set them itself, and file
// capabilities; trusted.* would steer overlayfs, security.* the machine's own
// checks.
func layerFilter(m *layerMeter) archive.Filter {
	return func(h *tar.Header) (bool, error) {
		if err := m.entry(h); err != nil {
			return false, err
		}
		if err := checkEntryName(h.Name); err != nil {
			return false, err
		}
		if h.Typeflag == tar.TypeBlock || h.Typeflag == tar.TypeChar {
			return false, nil
		}
		for k := range h.PAXRecords {
			if !keptAttribute(k) {
				delete(h.PAXRecords, k)
			}
		}
		return true, nil
	}
}

// checkEntryName refuses what no file system takes, before parents are made for it.
func checkEntryName(name string) error {
	if len(name) > unix.PathMax-256 {
		return fmt.Errorf("entry %.100q…: name is too long", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if len(part) > 255 {
			return fmt.Errorf("entry %.100q…: name is too long", name)
		}
	}
	return nil
}

func keptAttribute(record string) bool {
	name, ok := strings.CutPrefix(record, "SCHILY.xattr.")
	if !ok {
		return false
	}
	switch name {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

// upperDir finds the directory that a fresh snapshot's files go to, so that
// unpacking needs no mount.
func upperDir(mounts []mount.Mount) (string, []archive.ApplyOpt, error) {
	if len(mounts) != 1 {
		return "", nil, fmt.Errorf("snapshot needs %d mounts: not supported", len(mounts))
	}
	m := mounts[0]
	if m.Type == "bind" {
		return m.Source, nil, nil
	}
	if m.Type != "overlay" {
		return "", nil, fmt.Errorf("snapshot of type %q: not supported", m.Type)
	}
	var upper string
	var lower []string
	for _, o := range m.Options {
		if v, ok := strings.CutPrefix(o, "upperdir="); ok {
			upper = v
		}
		if v, ok := strings.CutPrefix(o, "lowerdir="); ok {
			lower = strings.Split(v, ":")
		}
	}
	if upper == "" {
		return "", nil, errors.New("snapshot has no upper directory")
	}
	return upper, []archive.ApplyOpt{
		archive.WithConvertWhiteout(archive.OverlayConvertWhiteout),
		archive.WithParents(lower),
	}, nil
}

func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("write %s out to disk: %w", dir, err)
	}
	return nil
}

// zstdWindow bounds what one compressed stream may make the decoder keep.
const zstdWindow = 128 << 20

// decompress recognises a stream by its first bytes; the media type decides
// only whether that is allowed.
func decompress(r io.Reader, mediaType string) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, err := b.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read layer: %w", err)
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, fmt.Errorf("layer is not valid gzip: %w", err)
		}
		return z, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return nil, fmt.Errorf("layer is not valid zstd: %w", err)
		}
		return z.IOReadCloser(), nil
	case strings.HasSuffix(mediaType, "gzip") || strings.HasSuffix(mediaType, "zstd"):
		if len(head) > 0 && looksLikeTar(b) { // docker calls its uncompressed layers gzip in places
			return io.NopCloser(b), nil
		}
		return nil, fmt.Errorf("layer is not what its media type %s says", mediaType)
	}
	return io.NopCloser(b), nil
}

func looksLikeTar(b *bufio.Reader) bool {
	head, _ := b.Peek(512)
	return len(head) == 512 && bytes.Equal(head[257:262], []byte("ustar"))
}

// unpackedBytes is what an image's snapshots take, shared ones too.
func (k *Keeper) unpackedBytes(ctx context.Context, cfg ocispec.Image) int64 {
	sn := k.Stores.Snapshots
	var sum snapshots.Usage
	for i := range cfg.RootFS.DiffIDs {
		u, err := sn.Usage(ctx, identity.ChainID(cfg.RootFS.DiffIDs[:i+1]).String())
		if err == nil {
			sum.Add(u)
		}
	}
	return sum.Size
}
