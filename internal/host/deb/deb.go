// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package deb takes files out of Debian packages and has apt fetch them.
//
// It reads .deb files (an ar archive of two tar files, compressed with gzip,
// xz or zstd) without dpkg, so that it works anywhere. Whether a package is
// genuine is apt's business: Fetch runs `apt-get download`, which verifies the
// archive's signature and the package's hash; a file handed to Unpack by other
// means is as trustworthy as whoever handed it over.
//
// Nothing is written outside what the caller's visit function does itself:
// names are cleaned and given relative to the root, never with "..".
package deb

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"wherry.example/wherry/internal/format/ar"
)

// Control is what a package says of itself.
type Control struct {
	Package      string
	Version      string
	Architecture string
	Source       string
}

// maxControl bounds a package's control file.
const maxControl = 1 << 20

// Unpack reads the package in file and calls visit with every regular file and
// symbolic link whose name keep accepts. Names have no leading slash.
func Unpack(file string, keep func(name string) bool, visit func(h *tar.Header, r io.Reader) error) (Control, error) {
	f, err := os.Open(file)
	if err != nil {
		return Control{}, err
	}
	defer f.Close()
	c, err := unpack(bufio.NewReaderSize(f, 1<<20), keep, visit)
	if err != nil {
		return Control{}, fmt.Errorf("unpack %s: %w", file, err)
	}
	return c, nil
}

func unpack(r io.Reader, keep func(string) bool, visit func(*tar.Header, io.Reader) error) (Control, error) {
	var c Control
	var data bool
	for a := ar.NewReader(r); ; {
		name, _, err := a.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return c, err
		}
		switch {
		case strings.HasPrefix(name, "control.tar"):
			c, err = readControl(name, a)
		case strings.HasPrefix(name, "data.tar"):
			data = true
			err = readData(name, a, keep, visit)
		}
		if err != nil {
			return c, fmt.Errorf("%s: %w", name, err)
		}
	}
	if c.Package == "" || !data {
		return c, errors.New("not a Debian package: no control or no data in it")
	}
	return c, nil
}

func readControl(name string, r io.Reader) (Control, error) {
	var c Control
	err := eachFile(name, r, func(h *tar.Header, r io.Reader) error {
		if h.Name != "control" {
			return nil
		}
		text, err := io.ReadAll(io.LimitReader(r, maxControl))
		c = parseControl(string(text))
		return err
	})
	return c, err
}

// parseControl reads the four fields that matter here; continuation lines
// begin with a space and belong to other fields.
func parseControl(text string) Control {
	var c Control
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimRight(line, "\n"), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Package":
			c.Package = value
		case "Version":
			c.Version = value
		case "Architecture":
			c.Architecture = value
		case "Source":
			c.Source = value
		}
	}
	return c
}

func readData(name string, r io.Reader, keep func(string) bool, visit func(*tar.Header, io.Reader) error) error {
	return eachFile(name, r, func(h *tar.Header, r io.Reader) error {
		if h.Typeflag != tar.TypeReg && h.Typeflag != tar.TypeSymlink || !keep(h.Name) {
			return nil
		}
		return visit(h, r)
	})
}

// eachFile walks over the tar file called name, which tells its compression.
func eachFile(name string, r io.Reader, f func(*tar.Header, io.Reader) error) error {
	plain, err := decompress(name, r)
	if err != nil {
		return err
	}
	defer plain.Close()
	for t := tar.NewReader(plain); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		h.Name = strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if err := f(h, t); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

func decompress(name string, r io.Reader) (io.ReadCloser, error) {
	switch path.Ext(name) {
	case ".tar":
		return io.NopCloser(r), nil
	case ".gz":
		return gzip.NewReader(r)
	case ".xz":
		x, err := xz.NewReader(bufio.NewReaderSize(r, 1<<20))
		return io.NopCloser(x), err
	case ".zst":
		z, err := zstd.NewReader(r)
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return nil, fmt.Errorf("unknown compression %q", path.Ext(name))
}
