// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Source is where a repository's files are read from. Names are paths with
// slashes, below the repository's folder. Open returns the content from offset on, or from an
// earlier place when it cannot do that: start says from where. A file
// that is not there is fs.ErrNotExist. Nothing that a source says is believed.
type Source interface {
	Open(ctx context.Context, name string, offset int64) (body io.ReadCloser, start int64, err error)
}

// Dir is a repository in a folder, such as a USB stick. Links that lead out of
// it, and whatever is not a plain file, are refused.
type Dir string

// Open opens a file below the folder.
func (d Dir) Open(_ context.Context, name string, offset int64) (io.ReadCloser, int64, error) {
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return nil, 0, err
	}
	defer root.Close()
	info, err := root.Stat(name)
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() { // opening a FIFO would wait for ever
		return nil, 0, fmt.Errorf("%s is not a plain file", name)
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, 0, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, offset, nil
}

// readAll reads a whole file of at most limit bytes.
func readAll(ctx context.Context, s Source, name string, limit int64) ([]byte, error) {
	body, start, err := s.Open(ctx, name, 0)
	if err != nil {
		return nil, causeOf(ctx, err)
	}
	defer body.Close()
	if start != 0 {
		return nil, fmt.Errorf("it begins at byte %d", start)
	}
	data, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return nil, causeOf(ctx, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	}
	return data, nil
}

// Store remembers verified metadata between refreshes: that is what makes older
// metadata known as older. Its content is verified again when it is read.
type Store interface {
	Load(name string) ([]byte, error) // fs.ErrNotExist when there is none
	Save(name string, data []byte) error
}

// StoreDir is a store in a folder. A power cut leaves the old file or the new.
type StoreDir string

// Load reads a file. More than metadata may have is not read.
func (d StoreDir) Load(name string) ([]byte, error) {
	return readAll(context.Background(), Dir(d), name, DefaultLimits().TargetsBytes)
}

// Save replaces a file.
func (d StoreDir) Save(name string, data []byte) (err error) {
	if err := os.MkdirAll(string(d), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(string(d), ".wherry-tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after the rename there is nothing left
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("remember %s: %w", name, err)
	}
	if err := os.Rename(f.Name(), filepath.Join(string(d), name)); err != nil {
		return fmt.Errorf("remember %s: %w", name, err)
	}
	dir, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// nothing is a store for those who look once.
type nothing struct{}

func (nothing) Load(string) ([]byte, error) { return nil, fs.ErrNotExist }
func (nothing) Save(string, []byte) error   { return nil }
