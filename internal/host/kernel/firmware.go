// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"wherry.example/wherry/internal/host/deb"
)

// Firmware is what one package holds for drivers to load into their devices.
type Firmware struct {
	Source deb.Candidate
	Files  []FirmwareFile // ordered by name
	// Licences are the names that the package's copyright file gives, if it is
	// of the kind that machines can read; Copyright is that file.
	Licences  []string
	Copyright []byte
}

// FirmwareFile is a file or a symbolic link below /lib/firmware.
type FirmwareFile struct {
	Name   string
	Data   []byte
	Target string // of a symbolic link
}

// Bounds of a package's firmware.
const (
	maxFirmwareBytes = 256 << 20
	maxFirmwareFiles = 10_000
	maxCopyright     = 1 << 20
	copyrightName    = "copyright"
)

var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)

// CheckFirmware refuses what cannot be the name of a package.
func CheckFirmware(name string) error {
	if !packageName.MatchString(name) {
		return fmt.Errorf("firmware %.80q: not the name of a package", name)
	}
	return nil
}

// FirmwareFromApt takes the firmware out of a package, which is kept in the cache.
func FirmwareFromApt(ctx context.Context, name, cache string, progress func(string)) (Firmware, error) {
	if err := CheckFirmware(name); err != nil {
		return Firmware{}, err
	}
	c, err := deb.Resolve(ctx, name)
	if err != nil {
		return Firmware{}, fmt.Errorf("firmware: %w\n(most of Debian's firmware is not free: apt offers it when its sources name the component non-free-firmware)", err)
	}
	file, err := cachedPackage(ctx, c, filepath.Join(cache, "firmware"), progress)
	if err != nil {
		return Firmware{}, fmt.Errorf("firmware: %w", err)
	}
	f, err := readFirmware(file)
	if err != nil {
		return Firmware{}, fmt.Errorf("firmware of package %s: %w", name, err)
	}
	f.Source = c
	return f, nil
}

// cachedPackage is the package's file, fetched when it is not in the cache.
func cachedPackage(ctx context.Context, c deb.Candidate, dir string, progress func(string)) (string, error) {
	file := filepath.Join(dir, c.Package+"_"+strings.ReplaceAll(c.Version, ":", "_")+".deb")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	progress("firmware: fetching " + c.Package + " " + c.Version)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(dir, ".fetch-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	fetched, err := deb.Fetch(ctx, c, tmp)
	if err != nil {
		return "", err
	}
	return file, os.Rename(fetched, file)
}

func readFirmware(file string) (Firmware, error) {
	var f Firmware
	left := maxFirmwareBytes
	_, err := deb.Unpack(file, isFirmware, func(h *tar.Header, r io.Reader) error {
		data, err := io.ReadAll(io.LimitReader(r, int64(left)+1))
		if err != nil {
			return err
		}
		if left -= len(data); left < 0 || len(f.Files) == maxFirmwareFiles {
			return errors.New("more than any firmware")
		}
		if name, ok := firmwareName(h.Name); ok {
			f.Files = append(f.Files, FirmwareFile{Name: name, Data: data, Target: h.Linkname})
		} else {
			f.Copyright = data[:min(len(data), maxCopyright)]
		}
		return nil
	})
	if err != nil {
		return f, err
	}
	if len(f.Files) == 0 {
		return f, errors.New("there is nothing for /lib/firmware in it")
	}
	slices.SortFunc(f.Files, func(a, b FirmwareFile) int { return strings.Compare(a.Name, b.Name) })
	f.Licences = licenceNames(f.Copyright)
	return f, f.check()
}

// check refuses links that lead out of /lib/firmware.
func (f Firmware) check() error {
	for _, file := range f.Files {
		if file.Target == "" {
			continue
		}
		if to := filepath.Join(filepath.Dir(file.Name), file.Target); filepath.IsAbs(file.Target) || !fs.ValidPath(to) {
			return fmt.Errorf("the link %s leads out of /lib/firmware, to %s", file.Name, file.Target)
		}
	}
	return nil
}

func isFirmware(name string) bool {
	_, ok := firmwareName(name)
	return ok || strings.HasPrefix(name, "usr/share/doc/") && filepath.Base(name) == copyrightName
}

// firmwareName is a file's name as drivers ask for it.
func firmwareName(name string) (string, bool) {
	return strings.CutPrefix(strings.TrimPrefix(name, "usr/"), "lib/firmware/")
}

// licenceNames reads the names in a copyright file of Debian's format 1.0: what
// follows "License:" in a paragraph that begins with "Files:".
func licenceNames(copyright []byte) []string {
	if !bytes.HasPrefix(copyright, []byte("Format: ")) {
		return nil
	}
	var names []string
	files := false
	for s := bufio.NewScanner(bytes.NewReader(copyright)); s.Scan(); {
		key, value, _ := strings.Cut(s.Text(), ":")
		switch {
		case strings.TrimSpace(s.Text()) == "":
			files = false
		case key == "Files":
			files = true
		case key == "License" && files && strings.TrimSpace(value) != "":
			names = append(names, strings.TrimSpace(value))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
