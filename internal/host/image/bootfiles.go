// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"wherry.example/wherry/internal/format/pe"
	"wherry.example/wherry/internal/host/deb"
)

const (
	bootPackage = "systemd-boot-efi"
	bootFolder  = "usr/lib/systemd/boot/efi/"
	stubName    = "linuxx64.efi.stub"
	loaderName  = "systemd-bootx64.efi"
	maxBootFile = 4 << 20
)

// bootFiles are the two programs of systemd that firmware runs.
type bootFiles struct {
	stub, loader []byte
	source       deb.Candidate // no package when they come from a folder
}

// takeBootFiles reads them from the folder given, else from Debian's package,
// through the cache. A build of no format needs none.
func (b *build) takeBootFiles(ctx context.Context) (err error) {
	if len(b.Formats) == 0 || b.BootFiles != "" {
		return nil
	}
	b.boot, err = cachedBootFiles(ctx, b.Cache, b.Progress)
	return err
}

// BootFiles returns Debian's boot stub and loader, through the cache folder.
func BootFiles(ctx context.Context, cache string) (stub, loader []byte, err error) {
	f, err := cachedBootFiles(ctx, cache, func(string) {})
	return f.stub, f.loader, err
}

func cachedBootFiles(ctx context.Context, cache string, progress func(string)) (bootFiles, error) {
	c, err := deb.Resolve(ctx, bootPackage)
	if err != nil {
		return bootFiles{}, fmt.Errorf("find the boot loader: %w\n(or give it yourself: --boot-files DIR)", err)
	}
	dir := filepath.Join(cache, "bootloader", c.Version)
	f, err := readBootFiles(dir)
	if err != nil {
		progress("boot loader: fetching " + c.Package + " " + c.Version)
		if err := fetchBootFiles(ctx, c, dir); err != nil {
			return bootFiles{}, fmt.Errorf("boot loader: %w", err)
		}
		f, err = readBootFiles(dir)
	}
	f.source = c
	return f, err
}

func readBootFiles(dir string) (f bootFiles, err error) {
	for name, into := range map[string]*[]byte{stubName: &f.stub, loaderName: &f.loader} {
		file := filepath.Join(dir, name)
		if *into, err = os.ReadFile(file); err != nil {
			return f, fmt.Errorf("boot loader: %w", err)
		}
		if _, err := pe.Parse(*into); err != nil {
			return f, fmt.Errorf("boot loader %s: %w", file, err)
		}
	}
	return f, nil
}

// fetchBootFiles makes the folder with the two files in it, whole or not at all.
func fetchBootFiles(ctx context.Context, c deb.Candidate, dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".fetch-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	file, err := deb.Fetch(ctx, c, tmp)
	if err != nil {
		return err
	}
	out := filepath.Join(tmp, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		return err
	}
	_, err = deb.Unpack(file, isBootFile, func(h *tar.Header, r io.Reader) error {
		data, err := io.ReadAll(io.LimitReader(r, maxBootFile))
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(out, path.Base(h.Name)), data, 0o644)
	})
	if err != nil {
		return err
	}
	if _, err := readBootFiles(out); err != nil {
		return err
	}
	// Another build may have been quicker; a broken folder makes way.
	if _, err := readBootFiles(dir); err == nil {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(out, dir)
}

func isBootFile(name string) bool {
	base, ok := strings.CutPrefix(name, bootFolder)
	return ok && (base == stubName || base == loaderName)
}
