// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package image is the recipe: it turns an edition (editions/NAME.yaml) into
// the files that a machine boots.
//
// Build goes through fixed steps, each from values to values: kernel and
// modules (package kernel), programs (component), the root's file tree
// (rootfs), the packed root and the initramfs (bootimage), the formats that were
// asked for (bootimage, disk), the list of what is inside (sbom), and the
// manifest with the hash of every part. The output folder holds kernel,
// root.squashfs, initramfs, sbom.json, manifest.json, and wherry.FORMAT of
// each format; those of an older build that were not made anew are removed.
//
// The same sources, with the same kernel package and Go version, give the same
// bytes on every machine and in every folder: no clock, no host name and no path
// gets in. Parts are written beside the old ones and renamed into place, the
// manifest last, so an interrupted build leaves the old image or one whose
// manifest does not match, which ReadManifest's Verify finds. One build at a
// time works in an output folder; a second one waits.
package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"wherry.example/wherry/internal/format/pe"
	"wherry.example/wherry/internal/host/bootimage"
	"wherry.example/wherry/internal/host/component"
	"wherry.example/wherry/internal/host/deb"
	"wherry.example/wherry/internal/host/kernel"
	"wherry.example/wherry/internal/host/sbom"
	"wherry.example/wherry/release"
)

// Options say what to build, out of what, and where to.
type Options struct {
	Source       string // the checkout; default: the current folder's module root
	Output       string // default: Source/build/EDITION-ARCH, or build/EDITION-KIND-ARCH
	Cache        string // default: the user's cache folder for wherry
	Edition      string // default: core
	Kernel       string // a kind of Debian's (package kernel), default: cloud; or a kernel image
	Modules      string // the modules of a kernel image
	Certificates string // CA certificates (PEM), instead of Debian's
	BootFiles    string // folder of systemd's boot stub and loader, instead of Debian's
	Version      string // DAYS.MINOR.PATCH; default: what the checkout's file VERSION says
	ReleaseRoot  string // root role (root.json) that machines trust; default: Source/release-root.json if it is there

	// Firmware are Debian packages whose firmware goes into the root.
	Firmware []string
	// Formats beside the parts: see Formats.
	Formats []string
	// SecureBootKey and SecureBootCertificate (PEM files) sign what firmware starts.
	SecureBootKey, SecureBootCertificate string
	// SecureBootEnroll has disks enrol the certificate at their first boot.
	SecureBootEnroll bool
	// LiveConfig is a file: the configuration on the live medium.
	LiveConfig string

	Progress func(string) // called with one line for each slow step; may be nil
}

// arch is the one architecture so far.
const arch = "amd64"

// Result is what a build made.
type Result struct {
	Dir      string
	Manifest release.Manifest
	Programs []Size        // uncompressed, as they lie in the root
	Modules  []kernel.Cost // uncompressed, by group
	Took     time.Duration
}

// Size is the size of something that has a name.
type Size struct {
	Name  string
	Bytes int64
}

// Build builds an image.
func Build(ctx context.Context, o Options) (Result, error) {
	start := time.Now()
	if err := o.fill(); err != nil {
		return Result{}, err
	}
	unlock, err := lock(o.Output)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	b, err := newBuild(o)
	if err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(b.tmp)
	r, err := b.run(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("build %s: %w", o.Edition, err)
	}
	r.Took = time.Since(start)
	return r, nil
}

func (o *Options) fill() error {
	kind, ok := kernel.FindKind(o.Kernel)
	if ok != (o.Modules == "") {
		return fmt.Errorf("kernel %q: use cloud or metal, which are Debian's; or give a kernel image of your own with --kernel FILE, and its modules with --modules", o.Kernel)
	}
	if err := o.checkFormats(); err != nil {
		return err
	}
	if o.Edition == "" {
		o.Edition = "core"
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	var err error
	if o.Source == "" {
		if o.Source, err = findSource(); err != nil {
			return err
		}
	}
	if o.Output == "" {
		o.Output = filepath.Join(o.Source, "build", o.Edition+kind.Suffix+"-"+arch)
	}
	// Programs are built from within the checkout: names that are relative to the folder of today mean something else there.
	for _, dir := range []*string{&o.Source, &o.Output} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return err
		}
	}
	if o.Cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("find the cache folder: %w", err)
		}
		o.Cache = filepath.Join(user, "wherry")
	}
	return nil
}

// findSource goes up from the current folder to the checkout.
func findSource() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "editions")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("find Wherry's sources: run this inside a checkout, or give --source")
		}
		dir = up
	}
}

// build is one build under way.
type build struct {
	Options
	edition Edition
	number  release.Version
	version string // number, as text
	tmp     string // inside the output folder: renames must not cross filesystems

	kernel   kernel.Kernel
	firmware []kernel.Firmware
	root     *kernel.Selection
	binaries []component.Binary
	init     component.Binary
	// What is beside the root in the initramfs.
	early        component.Binary
	earlyModules *kernel.Selection
	certs        certificates
	boot         bootFiles
	trust        trust
	signer       *pe.Signer // for Secure Boot; nil: nothing is signed
	live         []byte     // configuration on the live medium
	commit       *release.Commit
	measured     *release.Boot // what the manifest tells of the OS file; nil: there is none
}

func newBuild(o Options) (*build, error) {
	b := &build{Options: o}
	var err error
	if b.number, err = o.number(); err != nil {
		return nil, err
	}
	b.version = b.number.String()
	if b.trust, err = o.readTrust(); err != nil {
		return nil, err
	}
	if b.edition, err = loadEdition(o.Source, o.Edition); err != nil {
		return nil, err
	}
	if err := b.readGiven(); err != nil {
		return nil, err
	}
	kind, _ := kernel.FindKind(o.Kernel)
	b.edition.Name += kind.Suffix
	b.tmp, err = os.MkdirTemp(o.Output, ".parts-*")
	return b, err
}

// readGiven reads what people gave by name. All of it that is wrong is told before anything takes time.
func (b *build) readGiven() error {
	var signer, live, kern, boot, certs error
	b.signer, signer = b.readSigner()
	b.live, live = b.liveConfig()
	if _, debian := kernel.FindKind(b.Kernel); !debian {
		b.kernel, kern = kernel.FromFiles(b.Kernel, b.Modules)
	}
	if b.BootFiles != "" && len(b.Formats) > 0 {
		b.boot, boot = readBootFiles(b.BootFiles)
	}
	if b.Certificates != "" {
		b.certs, certs = readCertificates(b.Certificates)
	}
	all := []error{signer, live, kern, boot, certs}
	for _, name := range b.Firmware {
		all = append(all, kernel.CheckFirmware(name))
	}
	return errors.Join(all...)
}

// number is the version to build.
func (o Options) number() (release.Version, error) {
	if o.Version != "" {
		return release.ParseVersion(o.Version)
	}
	text, err := os.ReadFile(filepath.Join(o.Source, "VERSION"))
	if err != nil {
		return release.Version{}, fmt.Errorf("read the version: %w", err)
	}
	v, err := release.ParseVersion(strings.TrimSpace(string(text)))
	if err != nil {
		return v, fmt.Errorf("read VERSION: %w", err)
	}
	return v, nil
}

func (b *build) run(ctx context.Context) (Result, error) {
	steps := []func(context.Context) error{b.takeKernel, b.takeCertificates, b.takeBootFiles, b.buildPrograms, b.pack, b.list, b.makeFormats}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return Result{}, err
		}
	}
	m, err := b.describe()
	if err != nil {
		return Result{}, err
	}
	r := Result{Dir: b.Output, Manifest: m, Modules: b.root.Costs}
	for _, p := range append(b.binaries, b.init, b.early) {
		fi, err := os.Stat(p.Path)
		if err != nil {
			return r, err
		}
		r.Programs = append(r.Programs, Size{Name: p.Name, Bytes: fi.Size()})
	}
	return r, b.publish()
}

func (b *build) takeKernel(ctx context.Context) (err error) {
	kind, debian := kernel.FindKind(b.Kernel)
	if !debian {
		kind = kernel.Cloud
	} else if b.kernel, err = kernel.FromApt(ctx, kind, b.Cache, b.Progress); err != nil {
		return err
	}
	for _, name := range b.Firmware {
		f, err := kernel.FirmwareFromApt(ctx, name, b.Cache, b.Progress)
		if err != nil {
			return err
		}
		b.firmware = append(b.firmware, f)
	}
	tree, err := kernel.OpenTree(b.kernel.Modules)
	if err != nil {
		return err
	}
	if b.root, err = tree.Select(kind.Root); err != nil {
		return err
	}
	b.earlyModules, err = tree.Select(kernel.Early)
	return err
}

func (b *build) takeCertificates(ctx context.Context) (err error) {
	if b.Certificates != "" {
		return nil
	}
	b.certs, err = loadCertificates(ctx, b.Cache, b.Progress)
	return err
}

func (b *build) buildPrograms(ctx context.Context) error {
	builder := &component.Builder{Source: b.Source, Cache: b.Cache, Arch: arch, Progress: b.Progress}
	for _, name := range b.edition.Components {
		bin, err := builder.Component(ctx, name)
		if err != nil {
			return err
		}
		b.binaries = append(b.binaries, bin)
	}
	for _, name := range b.edition.Programs {
		bin, err := builder.Program(ctx, name, b.version, filepath.Join(b.tmp, "programs", name))
		if err != nil {
			return err
		}
		b.binaries = append(b.binaries, bin)
	}
	for name, bin := range map[string]*component.Binary{"wherry-init": &b.init, "wherry-early": &b.early} {
		var err error
		if *bin, err = builder.Program(ctx, name, b.version, filepath.Join(b.tmp, "programs", name)); err != nil {
			return err
		}
	}
	return nil
}

// pack writes the three parts that a machine boots into the temporary folder.
func (b *build) pack(ctx context.Context) error {
	root, err := b.rootTree()
	if err != nil {
		return err
	}
	early, err := b.earlyTree()
	if err != nil {
		return err
	}
	file, err := bootimage.Squashfs(ctx, root, b.Cache, b.Progress)
	if err != nil {
		return err
	}
	packed, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var initramfs bytes.Buffer
	if err := bootimage.Initramfs(&initramfs, early, packed); err != nil {
		return err
	}
	image, err := os.ReadFile(b.kernel.Image)
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{"kernel": image, "root.squashfs": packed, "initramfs": initramfs.Bytes()} {
		if err := os.WriteFile(filepath.Join(b.tmp, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// list writes the list of contents, and notes of what they were made.
func (b *build) list(ctx context.Context) error {
	in := sbom.Input{
		Version: b.version, Edition: b.edition.Name, Arch: arch, Source: b.Source,
		Packages: b.packages(), Data: b.trust.data(),
	}
	for _, p := range append(b.binaries, b.init, b.early) {
		in.Binaries = append(in.Binaries, sbom.Binary{Name: p.Name, Path: p.Path})
	}
	for _, f := range b.firmware {
		in.Firmware = append(in.Firmware, sbom.Firmware{Package: f.Source, Licences: f.Licences, Copyright: string(f.Copyright)})
	}
	b.commit = sourceState(ctx, b.Source)
	list, err := sbom.Encode(ctx, in)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.tmp, "sbom.json"), list, 0o644)
}

// describe writes the manifest.
func (b *build) describe() (release.Manifest, error) {
	m, err := b.manifest(b.partNames())
	if err != nil {
		return m, err
	}
	return m, writeManifest(m, filepath.Join(b.tmp, release.ManifestName))
}

// manifest describes the image with those parts.
func (b *build) manifest(names []string) (release.Manifest, error) {
	m := release.Manifest{
		Version: b.number, Edition: b.edition.Name, Arch: arch,
		Kernel:  release.Kernel{Package: b.kernel.Package, Version: b.kernel.Version, Release: b.kernel.Release},
		Modules: release.Modules{Count: len(b.root.Order)},
		Boot:    b.measured,
		Trust:   b.trust.manifest(),
		Source:  b.commit,
	}
	for _, f := range b.firmware {
		m.Firmware = append(m.Firmware, release.Firmware{Package: f.Source.Package, Version: f.Source.Version, Licences: f.Licences})
	}
	for _, name := range b.root.Order {
		m.Modules.Bytes += int64(len(b.root.Files[name]))
	}
	for _, name := range names {
		p, err := measure(b.tmp, name)
		if err != nil {
			return m, err
		}
		m.Parts = append(m.Parts, p)
	}
	return m, nil
}

// packages are the Debian packages whose content is in the image.
func (b *build) packages() []deb.Candidate {
	var out []deb.Candidate
	if b.kernel.Package != "" {
		out = append(out, deb.Candidate{Package: b.kernel.Package, Version: b.kernel.Version, Architecture: arch})
	}
	if b.certs.source.Package != "" {
		out = append(out, b.certs.source)
	}
	if b.boot.source.Package != "" {
		out = append(out, b.boot.source)
	}
	for _, p := range b.binaries {
		out = append(out, p.Linked...)
	}
	return out
}

// partNames are the files of this image beside its manifest.
func (b *build) partNames() []string {
	names := slices.Clone(parts)
	for _, f := range b.wanted() {
		names = append(names, f.file)
	}
	return names
}

// publish moves the finished parts to where they belong, the manifest last.
// Formats of an older build are not of this one: they go.
func (b *build) publish() error {
	names := append(b.partNames(), release.ManifestName)
	for _, name := range names {
		if err := os.Rename(filepath.Join(b.tmp, name), filepath.Join(b.Output, name)); err != nil {
			return err
		}
	}
	for _, f := range formats {
		if slices.Contains(names, f.file) {
			continue
		}
		if err := os.Remove(filepath.Join(b.Output, f.file)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
