// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
)

// Bounds of a bundle.
const (
	maxBundleFiles = 1024
	maxBundleName  = 300
)

// Bundle is a repository in one file, for machines without a network: a tar
// archive (.wherry) of the chain of root roles, the other metadata, and the
// files of one release or more, in this order. Its signature is that
// of the metadata; it is read through Refresh as any Source.
type Bundle struct {
	file  io.ReaderAt
	files map[string]span
}

type span struct{ offset, size int64 }

var bundled = regexp.MustCompile(`^(metadata/([1-9][0-9]{0,8}\.)?(root|timestamp|snapshot|targets)\.json|targets/releases/[0-9.]+/[a-z0-9_-]+/[A-Za-z0-9._+-]+)$`)

// OpenBundle finds the files in a bundle of that size. It reads the headers only.
func OpenBundle(file io.ReaderAt, size int64) (*Bundle, error) {
	b := &Bundle{file: file, files: map[string]span{}}
	at := &counter{r: io.NewSectionReader(file, 0, size)}
	for t := tar.NewReader(at); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) && len(b.files) > 0 {
			return b, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read bundle: %w: is this a .wherry file?", err)
		}
		if err := b.add(h, at.n, size); err != nil {
			return nil, fmt.Errorf("read bundle: %w", err)
		}
	}
}

func (b *Bundle) add(h *tar.Header, offset, size int64) error {
	switch {
	case len(h.Name) > maxBundleName || h.Typeflag != tar.TypeReg || !bundled.MatchString(h.Name) || path.Clean(h.Name) != h.Name:
		return fmt.Errorf("%.100q does not belong into a bundle", h.Name)
	case len(b.files) >= maxBundleFiles:
		return fmt.Errorf("%w: more than %d files", ErrTooLarge, maxBundleFiles)
	case h.Size < 0 || h.Size > size-offset:
		return fmt.Errorf("%s is cut off", h.Name)
	}
	if _, twice := b.files[h.Name]; twice {
		return fmt.Errorf("%s is there twice", h.Name)
	}
	b.files[h.Name] = span{offset, h.Size}
	return nil
}

// counter knows how far the tar reader has read: at a header's end, that is
// where the file begins. It can seek, so that content is passed over.
type counter struct {
	r *io.SectionReader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

func (c *counter) Seek(offset int64, whence int) (int64, error) {
	n, err := c.r.Seek(offset, whence)
	c.n = n
	return n, err
}

// Open opens a file of the bundle.
func (b *Bundle) Open(_ context.Context, name string, offset int64) (io.ReadCloser, int64, error) {
	s, ok := b.files[name]
	if !ok {
		return nil, 0, fmt.Errorf("%s is not in the bundle: %w", name, fs.ErrNotExist)
	}
	offset = min(max(offset, 0), s.size)
	return io.NopCloser(io.NewSectionReader(b.file, s.offset+offset, s.size-offset)), offset, nil
}

// WriteBundle writes the repository that c names, with the files of the
// releases that wanted says, as a bundle. When parts are named, only these are
// taken of a release that has one of them. It verifies all that it writes.
func WriteBundle(ctx context.Context, w io.Writer, c Config, wanted func(Release) bool, parts ...string) error {
	c = c.withDefaults()
	metadata := &recorder{Source: c.Source}
	c.Source, c.Store = metadata, nothing{} // all metadata is read, in its order
	repository, err := Refresh(ctx, c)
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	for _, f := range metadata.files {
		if err := writeEntry(t, f.name, f.body, int64(f.body.Len())); err != nil {
			return err
		}
	}
	for _, r := range repository.Releases {
		if !wanted(r) {
			continue
		}
		for _, f := range append([]File{r.Manifest}, r.only(parts)...) {
			if err := repository.bundle(ctx, t, f); err != nil {
				return err
			}
		}
	}
	return t.Close()
}

// only returns the files with these names, and all when there is none.
func (r Release) only(names []string) []File {
	var found []File
	for _, f := range r.Files {
		if slices.Contains(names, f.Name()) {
			found = append(found, f)
		}
	}
	if found == nil {
		return r.Files
	}
	return found
}

func (r *Repository) bundle(ctx context.Context, t *tar.Writer, f File) error {
	if err := r.Verify(ctx, f); err != nil {
		return err
	}
	body, _, err := r.source.Open(ctx, f.Location(), 0)
	if err != nil {
		return err
	}
	defer body.Close()
	return writeEntry(t, f.Location(), body, f.Bytes)
}

func writeEntry(t *tar.Writer, name string, body io.Reader, size int64) error {
	if err := t.WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o644, Format: tar.FormatPAX}); err != nil {
		return fmt.Errorf("write %s into the bundle: %w", name, err)
	}
	if _, err := io.CopyN(t, body, size); err != nil {
		return fmt.Errorf("write %s into the bundle: %w", name, err)
	}
	return nil
}

// recorder keeps the metadata that passes through it.
type recorder struct {
	Source
	files []recorded
}

type recorded struct {
	name string
	body *bytes.Buffer
}

func (r *recorder) Open(ctx context.Context, name string, offset int64) (io.ReadCloser, int64, error) {
	body, start, err := r.Source.Open(ctx, name, offset)
	if err != nil || path.Dir(name) != "metadata" {
		return body, start, err
	}
	kept := &bytes.Buffer{}
	r.files = append(r.files, recorded{name, kept})
	return struct {
		io.Reader
		io.Closer
	}{io.TeeReader(body, kept), body}, start, nil
}

// Has tells whether a release, as far as it was wanted, is in the bundle. That its files are the
// right ones is for Repository.Verify or Download to say.
func (b *Bundle) Has(r Release) bool { return b.Holds(r.Manifest) }

// Holds tells whether a file is in the bundle.
func (b *Bundle) Holds(f File) bool {
	_, ok := b.files[f.Location()]
	return ok
}
