// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/format/pe"
	"wherry.example/wherry/internal/host/bootimage"
	"wherry.example/wherry/internal/host/disk"
	"wherry.example/wherry/release"
)

// format is something that an image can be made as beside its parts.
type format struct {
	name, file string
	write      func(b *build, path string, c disk.Contents) error
}

// formats are the OS file for UEFI firmware, and what boots or carries it. Those
// that hold other parts come after what they hold.
var formats = []format{
	{"efi", osFile, func(_ *build, path string, c disk.Contents) error { return os.WriteFile(path, c.OS, 0o644) }},
	{"raw", "wherry.raw", ofDisk(disk.WriteRaw)},
	{"qcow2", "wherry.qcow2", ofDisk(disk.WriteQCOW2)},
	{"iso", "wherry.iso", ofDisk(disk.WriteISO)},
	{"vhd", "wherry.vhd", ofDisk(disk.WriteVHD)},
	{"vmdk", "wherry.vmdk", ofDisk(disk.WriteVMDK)},
	{"ova", "wherry.ova", ofDisk(disk.WriteOVA)},
	{"gce", "wherry-gce.tar.gz", ofDisk(disk.WriteGCE)},
	{"netboot", "wherry.ipxe", (*build).writeNetboot},
	{"oci", "wherry-oci.tar", (*build).writeOCI},
}

const osFile = "wherry.efi"

func ofDisk(write func(string, disk.Contents) error) func(*build, string, disk.Contents) error {
	return func(_ *build, path string, c disk.Contents) error { return write(path, c) }
}

// Formats are the names of all formats.
var Formats = func() (names []string) {
	for _, f := range formats {
		names = append(names, f.name)
	}
	return names
}()

// checkFormats puts the formats in order, each once.
func (o *Options) checkFormats() error {
	for _, f := range o.Formats {
		if !slices.Contains(Formats, f) {
			return fmt.Errorf("format %q: there are %s", f, strings.Join(Formats, ", "))
		}
	}
	o.Formats = slices.DeleteFunc(slices.Clone(Formats), func(f string) bool { return !slices.Contains(o.Formats, f) })
	switch {
	case (o.SecureBootKey == "") != (o.SecureBootCertificate == ""):
		return errors.New("a key and its certificate go together: give both --secure-boot-key and --secure-boot-cert")
	case o.SecureBootKey != "" && len(o.Formats) == 0:
		return errors.New("there is nothing to sign for Secure Boot: name a --format")
	case o.LiveConfig != "" && !slices.Contains(o.Formats, "iso"):
		return errors.New("there is no live medium for the configuration to lie on: give --format iso")
	case o.SecureBootKey == "" && o.SecureBootEnroll:
		return errors.New("there is nothing to enrol: give --secure-boot-key and --secure-boot-cert")
	}
	return nil
}

// readSigner reads the key for Secure Boot; nil when none was given.
func (o *Options) readSigner() (*pe.Signer, error) {
	if o.SecureBootKey == "" {
		return nil, nil
	}
	key, err := os.ReadFile(o.SecureBootKey)
	if err != nil {
		return nil, fmt.Errorf("key for Secure Boot: %w", err)
	}
	certificate, err := os.ReadFile(o.SecureBootCertificate)
	if err != nil {
		return nil, fmt.Errorf("certificate for Secure Boot: %w", err)
	}
	s, err := pe.ParseSigner(key, certificate)
	if err != nil {
		return nil, fmt.Errorf("sign for Secure Boot with %s and %s: %w", o.SecureBootKey, o.SecureBootCertificate, err)
	}
	return s, nil
}

// wanted are the formats that were asked for.
func (o *Options) wanted() (out []format) {
	for _, f := range formats {
		if slices.Contains(o.Formats, f.name) {
			out = append(out, f)
		}
	}
	return out
}

// makeFormats makes the OS file, and the rest out of it.
func (b *build) makeFormats(context.Context) error {
	if len(b.Formats) == 0 {
		return nil
	}
	uki, err := b.uki()
	if err != nil {
		return err
	}
	loader, err := bootimage.Sign(b.boot.loader, b.signer)
	if err != nil {
		return fmt.Errorf("sign the boot loader: %w", err)
	}
	c := disk.Contents{Version: b.version, OS: uki, Loader: loader, Owner: b.signer, Enroll: b.SecureBootEnroll, LiveConfig: b.live}
	for _, f := range b.wanted() {
		if err := f.write(b, filepath.Join(b.tmp, f.file), c); err != nil {
			return fmt.Errorf("format %s: %w", f.name, err)
		}
	}
	return nil
}

// uki makes the OS file of the parts, and keeps what the manifest tells of it.
func (b *build) uki() ([]byte, error) {
	u := bootimage.UKI{Stub: b.boot.stub, Cmdline: bootimage.Cmdline, OSRelease: b.osRelease(), Release: b.kernel.Release, Signer: b.signer}
	var err error
	if u.Kernel, err = os.ReadFile(filepath.Join(b.tmp, "kernel")); err != nil {
		return nil, err
	}
	if u.Initramfs, err = os.ReadFile(filepath.Join(b.tmp, "initramfs")); err != nil {
		return nil, err
	}
	b.measured = &release.Boot{Package: b.boot.source.Package, Version: b.boot.source.Version, PCR11: u.PCR11()}
	if b.signer != nil {
		sum := sha256.Sum256(b.signer.Certificate.Raw)
		b.measured.SignedBy = hex.EncodeToString(sum[:])
	}
	out, err := u.Build()
	if err != nil {
		return nil, fmt.Errorf("make the OS file: %w", err)
	}
	b.measured.Cmdline = u.Cmdline
	return out, measurePrograms(b.measured, b.boot.loader, out)
}

// liveConfig reads the configuration for the live medium, which must be good.
func (o *Options) liveConfig() ([]byte, error) {
	if o.LiveConfig == "" {
		return nil, nil
	}
	document, err := os.ReadFile(o.LiveConfig)
	if err != nil {
		return nil, fmt.Errorf("configuration for the live medium: %w", err)
	}
	if _, report := config.Parse(document); report.Err() != nil {
		return nil, fmt.Errorf("configuration for the live medium, %s:\n%w", o.LiveConfig, report.Err())
	}
	return document, nil
}
