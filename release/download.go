// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
)

// Manifest reads the manifest of a release, and checks that it tells of the files
// that were signed beside it.
func (r *Repository) Manifest(ctx context.Context, rel Release) (Manifest, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.limits.FileTime, ErrSlow)
	defer cancel()
	if rel.Manifest.Bytes > MaxManifestBytes {
		return Manifest{}, fmt.Errorf("manifest of %s: %w: %d bytes", rel.Version, ErrTooLarge, rel.Manifest.Bytes)
	}
	data, err := readAll(ctx, r.source, rel.Manifest.Location(), rel.Manifest.Bytes)
	if err != nil {
		return Manifest{}, fmt.Errorf("read the manifest of %s: %w", rel.Version, err)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != rel.Manifest.SHA256 {
		return Manifest{}, fmt.Errorf("manifest of %s: %w", rel.Version, ErrMismatch)
	}
	m, err := ParseManifest(data)
	if err != nil {
		return Manifest{}, err
	}
	return m, rel.agrees(m)
}

// agrees compares the manifest's parts with the signed targets.
func (r Release) agrees(m Manifest) error {
	if m.Version != r.Version || m.Edition != r.Edition || m.Arch != r.Arch {
		return fmt.Errorf("manifest of %s %s-%s: %w: it is that of %s %s-%s", r.Version, r.Edition, r.Arch, ErrMismatch, m.Version, m.Edition, m.Arch)
	}
	for _, p := range m.Parts {
		if f, ok := r.File(p.Name); !ok || f.Bytes != p.Bytes || f.SHA256 != p.SHA256 {
			return fmt.Errorf("manifest of %s: part %s: %w", r.Version, p.Name, ErrMismatch)
		}
	}
	return nil
}

// Download brings a signed file into dst. What dst holds already is taken for
// the beginning of an earlier download and not asked for again; when that turns out wrong, all is. After
// an interruption dst holds what came, for the next time. After ErrMismatch it is empty.
func (r *Repository) Download(ctx context.Context, f File, dst *os.File) error {
	for attempt := 1; ; attempt++ {
		had, got, err := r.attempt(ctx, f, dst)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, ErrMismatch) && had > 0 && attempt == 1:
			continue // what was there was something else
		case errors.Is(err, errBroken) && got > 0 && attempt < r.limits.Attempts && ctx.Err() == nil:
			continue
		}
		return fmt.Errorf("download %s: %w", f.Path, err)
	}
}

// errBroken is a connection that ended early.
var errBroken = errors.New("interrupted")

// attempt tells how much dst had, and how much came.
func (r *Repository) attempt(ctx context.Context, f File, dst *os.File) (had, got int64, err error) {
	sum, had, err := beginning(dst, f.Bytes)
	if err != nil {
		return 0, 0, err
	}
	if had < f.Bytes || f.Bytes == 0 {
		if got, err = r.rest(ctx, f, dst, sum, had); err != nil {
			return had, got, err
		}
	}
	if hex.EncodeToString(sum.Sum(nil)) == f.SHA256 {
		return had, got, nil
	}
	if err := errors.Join(dst.Truncate(0), seekStart(dst)); err != nil {
		return had, got, err
	}
	return had, got, ErrMismatch
}

func seekStart(f *os.File) error {
	_, err := f.Seek(0, io.SeekStart)
	return err
}

// beginning hashes what is there. More than the whole is nothing of use.
func beginning(dst *os.File, limit int64) (sum hash.Hash, had int64, err error) {
	info, err := dst.Stat()
	if err != nil {
		return nil, 0, err
	}
	if info.Size() > limit {
		if err := dst.Truncate(0); err != nil {
			return nil, 0, err
		}
	}
	if err := seekStart(dst); err != nil {
		return nil, 0, err
	}
	sum = sha256.New()
	had, err = io.Copy(sum, io.LimitReader(dst, limit))
	return sum, had, err
}

// rest appends the file from byte had on. What the server sends after the end
// is not read.
func (r *Repository) rest(ctx context.Context, f File, dst *os.File, sum hash.Hash, had int64) (int64, error) {
	ctx, p := withPace(ctx, r.limits)
	defer p.stop()
	body, start, err := r.source.Open(ctx, f.Location(), had)
	if err != nil {
		return 0, causeOf(ctx, err)
	}
	defer body.Close()
	in := p.reader(body)
	if start > had || start < 0 {
		return 0, fmt.Errorf("the repository began at byte %d, not %d", start, had)
	}
	if _, err := io.CopyN(io.Discard, in, had-start); err != nil { // a server without ranges
		return 0, fmt.Errorf("%w: %w", errBroken, causeOf(ctx, err))
	}
	n, err := io.CopyN(io.MultiWriter(dst, sum), in, f.Bytes-had)
	if err != nil {
		return n, broken(ctx, had+n, f.Bytes, err)
	}
	return n, nil
}

// broken tells a full disk, which another attempt does not mend, from a
// connection that ended.
func broken(ctx context.Context, have, want int64, err error) error {
	var path *os.PathError
	switch cause := causeOf(ctx, err); {
	case errors.As(cause, &path), errors.Is(cause, ErrSlow), errors.Is(cause, context.Canceled):
		return cause
	case errors.Is(cause, io.EOF):
		return fmt.Errorf("%w after %d of %d bytes", errBroken, have, want)
	default:
		return fmt.Errorf("%w after %d of %d bytes: %w", errBroken, have, want, cause)
	}
}

// Verify reads a file to its end and checks it, keeping nothing.
func (r *Repository) Verify(ctx context.Context, f File) error {
	ctx, p := withPace(ctx, r.limits)
	defer p.stop()
	body, _, err := r.source.Open(ctx, f.Location(), 0)
	if err != nil {
		return fmt.Errorf("read %s: %w", f.Path, causeOf(ctx, err))
	}
	defer body.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(p.reader(body), f.Bytes+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", f.Path, causeOf(ctx, err))
	}
	if n != f.Bytes || hex.EncodeToString(sum.Sum(nil)) != f.SHA256 {
		return fmt.Errorf("read %s: %w", f.Path, ErrMismatch)
	}
	return nil
}
