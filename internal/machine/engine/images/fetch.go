// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"wherry.example/wherry/internal/machine/engine/registry"
)

// blobFetcher brings blobs of one image into the content store. A blob that
// breaks off is continued where it stopped, from another host if there is one.
type blobFetcher struct {
	k        *Keeper
	host     string
	fetchers []remotes.Fetcher // asked in turn: with mirrors, then the registry itself
	progress *progress
}

const (
	fetchTries = 3 // without a byte of progress between them
	fetchPause = 500 * time.Millisecond
)

// blobRef names a partial download, so that the next pull finds it.
func blobRef(d ocispec.Descriptor) string { return "blob-" + d.Digest.String() }

// layer fetches one layer.
func (f *blobFetcher) layer(ctx context.Context, d ocispec.Descriptor) error {
	f.progress.layer(d, "waiting", -1)
	if err := f.blob(ctx, d, func(status string, n int64) { f.progress.layer(d, status, n) }); err != nil {
		return fmt.Errorf("layer %s: %w", d.Digest, err)
	}
	return nil
}

// document fetches and reads a manifest, index or configuration.
func (f *blobFetcher) document(ctx context.Context, d ocispec.Descriptor, what string) ([]byte, error) {
	if limit := f.k.Limits.ManifestBytes; d.Size > limit {
		return nil, fmt.Errorf("%w: %s has %s; at most %s are accepted", ErrBadImage, what,
			units.HumanSize(float64(d.Size)), units.HumanSize(float64(limit)))
	}
	if err := f.blob(ctx, d, func(string, int64) {}); err != nil {
		return nil, fmt.Errorf("%s %s: %w", what, d.Digest, err)
	}
	b, err := readBlob(ctx, f.k.Stores.Content, d.Digest, f.k.Limits.ManifestBytes)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	return b, nil
}

// blob fetches content unless it is there.
func (f *blobFetcher) blob(ctx context.Context, d ocispec.Descriptor, tell func(string, int64)) error {
	if err := f.k.downloads.Acquire(ctx, 1); err != nil {
		return err
	}
	defer f.k.downloads.Release(1)
	for again := true; ; again = false {
		resumed, err := f.ingest(ctx, d, tell)
		// A partial download may have been damaged: start over, once.
		if again && resumed && errors.Is(err, errWrongContent) {
			continue
		}
		return err
	}
}

var errWrongContent = errors.New("content is not what its digest says")

// ingest writes a blob through one writer, and tells whether an earlier part was continued.
func (f *blobFetcher) ingest(ctx context.Context, d ocispec.Descriptor, tell func(string, int64)) (resumed bool, err error) {
	store := f.k.Stores.Content
	w, err := content.OpenWriter(ctx, store, content.WithRef(blobRef(d)), content.WithDescriptor(d))
	if errdefs.IsAlreadyExists(err) {
		tell("exists", d.Size)
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open the content store: %w", err)
	}
	defer w.Close()
	st, err := w.Status()
	if err != nil {
		return false, fmt.Errorf("look at the partial download: %w", err)
	}
	status := "pulling"
	if resumed = st.Offset > 0; resumed {
		status = "resumed"
	}
	tell(status, st.Offset)
	if err := f.download(ctx, w, d, func(n int64) { tell("", n) }); err != nil {
		return resumed, explain(f.host, asDiskFull(err))
	}
	err = w.Commit(ctx, d.Size, d.Digest)
	if err == nil || errdefs.IsAlreadyExists(err) {
		tell("done", d.Size)
		return resumed, nil
	}
	if errdefs.IsFailedPrecondition(err) { // what arrived is useless: nobody may resume it
		abort := context.WithoutCancel(ctx)
		if e := store.Abort(abort, blobRef(d)); e != nil && !errdefs.IsNotFound(e) {
			f.k.Log.Warn("drop a bad download", "digest", d.Digest, "err", e)
		}
		return resumed, fmt.Errorf("%w: %w", ErrBadImage, errWrongContent)
	}
	return resumed, fmt.Errorf("keep the download: %w", err)
}

// download fills the writer up to the blob's size.
func (f *blobFetcher) download(ctx context.Context, w content.Writer, d ocispec.Descriptor, tell func(int64)) error {
	tries := 0
	for attempt := 0; ; attempt++ {
		st, err := w.Status()
		if err != nil {
			return err
		}
		if st.Offset == d.Size {
			return nil
		}
		if st.Offset > d.Size {
			if err := w.Truncate(0); err != nil {
				return err
			}
			st.Offset = 0
		}
		n, err := f.part(ctx, w, d, st.Offset, attempt, tell)
		if err == nil {
			continue
		}
		if n > 0 {
			tries = 0
		}
		// What we have is longer than what the registry has, or it knows no ranges.
		restart := st.Offset > 0 && serverStatus(err) == http.StatusRequestedRangeNotSatisfiable
		if restart {
			if e := w.Truncate(0); e != nil {
				return e
			}
		}
		if tries++; tries >= fetchTries || !restart && !worthRetry(ctx, err) {
			return err
		}
		f.k.Log.Debug("continue a download", "digest", d.Digest, "at", st.Offset+n, "err", err)
		if err := sleep(ctx, fetchPause); err != nil {
			return err
		}
	}
}

// part copies from offset on until the host breaks off.
func (f *blobFetcher) part(ctx context.Context, w content.Writer, d ocispec.Descriptor, offset int64, attempt int, tell func(int64)) (int64, error) {
	d.URLs = nil // content comes from the image's own registry only
	body, err := f.fetchers[attempt%len(f.fetchers)].Fetch(ctx, d)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	if offset > 0 {
		s, ok := body.(io.Seeker)
		if !ok {
			return 0, errors.New("download cannot be continued")
		}
		if _, err := s.Seek(offset, io.SeekStart); err != nil {
			return 0, fmt.Errorf("continue the download at %d: %w", offset, err)
		}
	}
	at := offset
	sinceLook := int64(lookEvery)
	out := writerFunc(func(p []byte) (int, error) {
		if sinceLook += int64(len(p)); sinceLook >= lookEvery {
			sinceLook = 0
			if err := f.k.room(0); err != nil {
				return 0, err
			}
		}
		n, err := w.Write(p)
		at += int64(n)
		tell(at)
		return n, err
	})
	n, err := io.CopyBuffer(out, io.LimitReader(body, d.Size-offset), make([]byte, 64<<10))
	if err == nil && offset+n < d.Size {
		err = fmt.Errorf("ended after %d of %d bytes: %w", offset+n, d.Size, io.ErrUnexpectedEOF)
	}
	return n, err
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// isNetwork tells errors of the way from errors of the content.
func isNetwork(err error) bool {
	var n net.Error
	return registry.IsSilence(err) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.As(err, &n)
}

func worthRetry(ctx context.Context, err error) bool {
	return ctx.Err() == nil && isNetwork(err) && !errors.Is(err, registry.ErrRefused)
}

// resumable tells whether what was downloaded so far is worth keeping.
func resumable(ctx context.Context, err error) bool {
	if errors.Is(err, ErrBadImage) || errors.Is(err, ErrDiskFull) || errors.Is(err, registry.ErrRefused) {
		return false
	}
	return ctx.Err() != nil || isNetwork(err) || serverStatus(err) >= 500
}

// serverStatus is the HTTP status that an error stands for, or 0.
func serverStatus(err error) int {
	var s remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &s) {
		return s.StatusCode
	}
	return 0
}

// explain gives a registry's error the words and the kind that callers act on.
func explain(host string, err error) error {
	status := serverStatus(err)
	switch {
	case errors.Is(err, ErrDiskFull), errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, docker.ErrInvalidAuthorization), status == http.StatusUnauthorized, status == http.StatusForbidden:
		return fmt.Errorf("%w: %s wants other credentials, or the image does not exist there: %w", ErrDenied, host, shorten(err))
	case errdefs.IsNotFound(err), status == http.StatusNotFound:
		return fmt.Errorf("%w on %s (or it needs credentials): %w", ErrNotFound, host, shorten(err))
	}
	return fmt.Errorf("%w %s: %w", ErrRegistry, host, shorten(err))
}
