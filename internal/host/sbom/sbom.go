// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package sbom lists what is inside an image, as CycloneDX JSON: every Go
// module of every program with its version and checksum, the Go standard
// library, the Debian packages, and their licences.
//
// The modules are read from the binaries themselves (debug/buildinfo), not
// from go.mod, so the list is what was really linked in. Licences are read
// from the files in the module cache (modules that are not there any more are
// downloaded again); what the classifier does not recognise is listed without
// a licence and with the property "wherry:licence" = "unrecognised", never guessed.
// The list holds no time and no serial number: equal images have equal lists.
package sbom

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"

	"wherry.example/wherry/internal/host/deb"
)

// Input is what an image is made of.
type Input struct {
	Version  string
	Edition  string
	Arch     string
	Source   string // the checkout, for the licence of Wherry itself
	Binaries []Binary
	Packages []deb.Candidate
	Firmware []Firmware
	Data     []Data
}

// Firmware is a package of firmware. Its licences are rarely ones that have
// SPDX identifiers, so the package's own names for them are listed, and its
// copyright file as it is.
type Firmware struct {
	Package   deb.Candidate
	Licences  []string
	Copyright string
}

// Data is a file that is neither a program nor of a package.
type Data struct {
	Name    string // its path in the root
	Version string
	SHA256  string
}

// Binary is a Go program in the image.
type Binary struct {
	Name string
	Path string
}

// ours is the prefix of the module paths of this repository.
const ours = "wherry.example/wherry"

// list collects components; equal ones are listed once.
type list struct {
	components map[string]cdx.Component
	depends    map[string][]string
	licences   *licences
}

// Encode returns the list of contents.
func Encode(ctx context.Context, in Input) ([]byte, error) {
	lic, err := newLicences(ctx)
	if err != nil {
		return nil, fmt.Errorf("sbom: %w", err)
	}
	l := &list{components: map[string]cdx.Component{}, depends: map[string][]string{}, licences: lic}
	root := cdx.Component{
		BOMRef: "wherry", Type: cdx.ComponentTypeOS, Name: "wherry-" + in.Edition + "-" + in.Arch, Version: in.Version,
		Licenses: spdx("Apache-2.0"),
	}
	for _, b := range in.Binaries {
		ref, err := l.addBinary(ctx, b)
		if err != nil {
			return nil, fmt.Errorf("sbom: %s: %w", b.Name, err)
		}
		l.depend(root.BOMRef, ref)
	}
	for _, p := range in.Packages {
		l.depend(root.BOMRef, l.addPackage(p))
	}
	for _, f := range in.Firmware {
		l.depend(root.BOMRef, l.addFirmware(f))
	}
	for _, d := range in.Data {
		l.depend(root.BOMRef, l.addData(d))
	}
	return l.encode(root)
}

func (l *list) depend(from, to string) {
	if !slices.Contains(l.depends[from], to) {
		l.depends[from] = append(l.depends[from], to)
	}
}

func (l *list) addBinary(ctx context.Context, b Binary) (string, error) {
	info, err := buildinfo.ReadFile(b.Path)
	if err != nil {
		return "", err
	}
	c := cdx.Component{BOMRef: "program:" + b.Name, Type: cdx.ComponentTypeApplication, Name: b.Name}
	c.Properties = &[]cdx.Property{{Name: "wherry:package", Value: info.Path}}
	if strings.HasPrefix(info.Path, ours) {
		c.Licenses = spdx("Apache-2.0")
	}
	l.components[c.BOMRef] = c
	l.depend(c.BOMRef, l.addGo(info.GoVersion))
	for _, m := range modules(info) {
		ref, err := l.addModule(ctx, m)
		if err != nil {
			return "", err
		}
		l.depend(c.BOMRef, ref)
	}
	return c.BOMRef, nil
}

// modules are all that a binary was linked from: the module of its main
// package, unless that is this repository, and the others.
func modules(info *debug.BuildInfo) []*debug.Module {
	var out []*debug.Module
	for _, m := range append([]*debug.Module{&info.Main}, info.Deps...) {
		if m.Replace != nil {
			m = m.Replace
		}
		if m.Path != "" && !strings.HasPrefix(m.Path, ours) {
			out = append(out, m)
		}
	}
	return out
}

func (l *list) addGo(version string) string {
	version = strings.TrimPrefix(version, "go")
	ref := "pkg:golang/std@" + version
	l.components[ref] = cdx.Component{
		BOMRef: ref, Type: cdx.ComponentTypeLibrary, Name: "std", Version: version,
		PackageURL: ref, Licenses: spdx("BSD-3-Clause"),
	}
	return ref
}

func (l *list) addModule(ctx context.Context, m *debug.Module) (string, error) {
	ref := "pkg:golang/" + m.Path + "@" + m.Version
	if _, known := l.components[ref]; known {
		return ref, nil
	}
	c := cdx.Component{BOMRef: ref, Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: ref}
	if m.Sum != "" {
		c.Properties = &[]cdx.Property{{Name: "wherry:go.sum", Value: m.Sum}}
		if sum, err := hexSum(m.Sum); err == nil {
			c.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: sum}}
		}
	}
	ids, err := l.licences.module(ctx, m.Path, m.Version)
	if err != nil {
		return "", err
	}
	setLicences(&c, ids)
	l.components[ref] = c
	return ref, nil
}

// hexSum turns Go's "h1:BASE64" (SHA-256 over the module's file hashes) into hex.
func hexSum(sum string) (string, error) {
	b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(sum, "h1:"))
	return hex.EncodeToString(b), err
}

func (l *list) addPackage(p deb.Candidate) string {
	ref := fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s", p.Package, strings.ReplaceAll(p.Version, "+", "%2B"), p.Architecture)
	c := cdx.Component{BOMRef: ref, Type: cdx.ComponentTypeLibrary, Name: p.Package, Version: p.Version, PackageURL: ref}
	if strings.HasPrefix(p.Package, "linux-image-") {
		c.Type = cdx.ComponentTypeOS
	}
	setLicences(&c, packageLicences(p.Package))
	l.components[ref] = c
	return ref
}

func (l *list) addFirmware(f Firmware) string {
	ref := l.addPackage(f.Package)
	c := l.components[ref]
	c.Type, c.Copyright, c.Properties = cdx.ComponentTypeFirmware, f.Copyright, nil
	var choices cdx.Licenses
	for _, name := range f.Licences {
		choices = append(choices, cdx.LicenseChoice{License: &cdx.License{Name: name}})
	}
	if c.Licenses = &choices; len(choices) == 0 {
		c.Licenses = nil
		setLicences(&c, nil)
	}
	l.components[ref] = c
	return ref
}

func (l *list) addData(d Data) string {
	ref := "file:" + d.Name
	l.components[ref] = cdx.Component{BOMRef: ref, Type: cdx.ComponentTypeFile, Name: d.Name, Version: d.Version,
		Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: d.SHA256}}}
	return ref
}

func setLicences(c *cdx.Component, ids []string) {
	if len(ids) > 0 {
		c.Licenses = spdx(ids...)
		return
	}
	property := cdx.Property{Name: "wherry:licence", Value: "unrecognised"}
	if c.Properties == nil {
		c.Properties = &[]cdx.Property{}
	}
	*c.Properties = append(*c.Properties, property)
}

func spdx(ids ...string) *cdx.Licenses {
	var out cdx.Licenses
	for _, id := range ids {
		if strings.Contains(id, " ") { // an expression stands alone
			return &cdx.Licenses{{Expression: strings.Join(ids, " AND ")}}
		}
		out = append(out, cdx.LicenseChoice{License: &cdx.License{ID: id}})
	}
	return &out
}

func (l *list) encode(root cdx.Component) ([]byte, error) {
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Component: &root}
	var components []cdx.Component
	for _, c := range l.components {
		components = append(components, c)
	}
	slices.SortFunc(components, func(a, b cdx.Component) int { return strings.Compare(a.BOMRef, b.BOMRef) })
	bom.Components = &components
	var depends []cdx.Dependency
	for ref, on := range l.depends {
		slices.Sort(on)
		depends = append(depends, cdx.Dependency{Ref: ref, Dependencies: &on})
	}
	slices.SortFunc(depends, func(a, b cdx.Dependency) int { return strings.Compare(a.Ref, b.Ref) })
	bom.Dependencies = &depends
	var out bytes.Buffer
	e := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false)
	if err := e.Encode(bom); err != nil {
		return nil, fmt.Errorf("sbom: %w", err)
	}
	return out.Bytes(), nil
}
