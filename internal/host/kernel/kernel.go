// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package kernel provides the kernel image and the modules of a build.
//
// There are two kinds (kinds.go): Debian's cloud kernel for virtual machines,
// and its general kernel for real hardware. Either is unchanged and has Debian's
// signatures, is fetched by apt (which verifies it) and unpacked into the cache
// once for each package version: cache/kernel/PACKAGE_VERSION/{vmlinuz,modules.builtin,
// release,*.ko}. The directory appears under that name only when it is
// complete, so a build that was cut off leaves nothing that the next one
// trusts. Modules are decompressed there: in the image they lie uncompressed
// inside the compressed root, because the kernel takes several times longer to
// load an .xz module. Their signatures stay whole.
//
// On systems without apt, FromFiles takes an image and a module directory.
//
// Which modules an image holds is decided by the tables of groups.go and by what
// the chosen modules themselves say they need (.modinfo); the packages have no
// modules.dep. Firmware that drivers ask for comes from packages that are named
// (firmware.go).
package kernel

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"wherry.example/wherry/internal/host/deb"
)

// Kernel is a kernel image with its modules.
type Kernel struct {
	Package string // Debian package; empty when given as files
	Version string // its version
	Release string // what uname -r says; empty when given as files
	Image   string // path of the image
	Modules string // directory that holds the modules, at any depth
}

// FromApt returns the newest kernel of a kind that apt offers, from the cache if
// it is there already.
func FromApt(ctx context.Context, kind Kind, cache string, progress func(string)) (Kernel, error) {
	c, err := resolve(ctx, kind.packages)
	if err != nil {
		return Kernel{}, fmt.Errorf("%w\n(or give a kernel yourself: --kernel FILE --modules DIR)", err)
	}
	dir := filepath.Join(cache, "kernel", c.Package+"_"+strings.ReplaceAll(c.Version, ":", "_"))
	if k, err := fromCache(dir, c); err == nil {
		return k, nil
	}
	progress("kernel: fetching " + c.Package + " " + c.Version)
	if err := fill(ctx, dir, c, progress); err != nil {
		return Kernel{}, fmt.Errorf("kernel %s: %w", c.Package, err)
	}
	return fromCache(dir, c)
}

// resolve goes from the meta-package to the package that holds the kernel.
func resolve(ctx context.Context, metaPackages []string) (deb.Candidate, error) {
	var first error
	for _, meta := range metaPackages {
		c, err := deb.Resolve(ctx, meta)
		if err == nil {
			return resolveImage(ctx, c)
		}
		if errors.Is(err, deb.ErrNoApt) {
			return c, fmt.Errorf("find a kernel: %w", err)
		}
		if first == nil {
			first = err
		}
	}
	return deb.Candidate{}, first
}

func resolveImage(ctx context.Context, meta deb.Candidate) (deb.Candidate, error) {
	for _, name := range meta.Depends {
		if strings.HasPrefix(name, "linux-image-") {
			return deb.Resolve(ctx, name)
		}
	}
	return meta, fmt.Errorf("find a kernel: %s depends on no kernel image", meta.Package)
}

func fromCache(dir string, c deb.Candidate) (Kernel, error) {
	release, err := os.ReadFile(filepath.Join(dir, "release"))
	if err != nil {
		return Kernel{}, err
	}
	return Kernel{
		Package: c.Package, Version: c.Version, Release: string(release),
		Image: filepath.Join(dir, "vmlinuz"), Modules: dir,
	}, nil
}

// fill makes the cache directory dir, whole or not at all.
func fill(ctx context.Context, dir string, c deb.Candidate, progress func(string)) (err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".fetch-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	file, err := deb.Fetch(ctx, c, tmp)
	if err != nil {
		return err
	}
	out := filepath.Join(tmp, "out")
	progress("kernel: unpacking its modules")
	if err := unpack(ctx, file, out); err != nil {
		return err
	}
	if err := os.Rename(out, dir); err != nil && !errors.Is(err, os.ErrExist) {
		if _, there := os.Stat(dir); there != nil {
			return err
		}
	}
	return nil
}

// unpack takes the kernel, the list of built-in modules and all modules out of
// a package.
func unpack(ctx context.Context, file, out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	d := startDecompressors(ctx, out)
	var release string
	_, err := deb.Unpack(file, wanted, func(h *tar.Header, r io.Reader) error {
		base := filepath.Base(h.Name)
		if rel, ok := strings.CutPrefix(h.Name, "boot/vmlinuz-"); ok {
			release = rel
			base = "vmlinuz"
		}
		if isModule(base) {
			return d.add(base, r)
		}
		return writeFile(filepath.Join(out, base), r)
	})
	if err := errors.Join(err, d.wait()); err != nil {
		return err
	}
	if release == "" {
		return errors.New("there is no boot/vmlinuz in the package")
	}
	return os.WriteFile(filepath.Join(out, "release"), []byte(release), 0o644)
}

func wanted(name string) bool {
	return strings.HasPrefix(name, "boot/vmlinuz-") || isModule(name) || filepath.Base(name) == "modules.builtin"
}

func writeFile(path string, r io.Reader) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// FromFiles takes a kernel image and a directory of modules as they are. The
// directory is what a distribution installs as /lib/modules/RELEASE.
func FromFiles(image, modules string) (Kernel, error) {
	if fi, err := os.Stat(image); err != nil || !fi.Mode().IsRegular() {
		return Kernel{}, fmt.Errorf("kernel image %s: not a readable file", image)
	}
	if fi, err := os.Stat(modules); err != nil || !fi.IsDir() {
		return Kernel{}, fmt.Errorf("kernel modules %s: not a readable directory", modules)
	}
	return Kernel{Image: image, Modules: modules, Release: filepath.Base(filepath.Clean(modules))}, nil
}
