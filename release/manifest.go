// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
)

// Bounds of a manifest.
const (
	ManifestName     = "manifest.json"
	MaxManifestBytes = 64 << 10
	MaxParts         = 64
	MaxPartBytes     = 4 << 30
	maxCmdline       = 4 << 10
)

// Manifest describes the files of one edition of a release for one
// architecture. Fields that this version does not know are left alone, so
// that old machines can read new manifests.
type Manifest struct {
	Version Version `json:"version"`
	Edition string  `json:"edition"`
	Arch    string  `json:"arch"`
	Kernel  Kernel  `json:"kernel"`
	Modules Modules `json:"modules"`
	// Firmware are the packages whose firmware is in the root.
	Firmware []Firmware `json:"firmware,omitempty"`
	Boot     *Boot      `json:"boot,omitempty"`   // nil: no OS file was built
	Trust    *Trust     `json:"trust,omitempty"`  // nil: a machine with this image takes no updates
	Source   *Commit    `json:"source,omitempty"` // nil: not built from a git checkout
	Parts    []Part     `json:"parts"`
}

// Kernel tells where the kernel is from.
type Kernel struct {
	Package string `json:"package,omitempty"`
	Version string `json:"version,omitempty"`
	Release string `json:"release,omitempty"`
}

// Modules are the kernel modules in the root, as they lie there: not compressed.
type Modules struct {
	Count int   `json:"count"`
	Bytes int64 `json:"bytes"`
}

// Firmware tells of a package of firmware; its licences are those that the
// package names.
type Firmware struct {
	Package  string   `json:"package"`
	Version  string   `json:"version"`
	Licences []string `json:"licences,omitempty"`
}

// Boot tells of the OS file, and of the loader in the disks.
type Boot struct {
	// Package and Version are those of the boot stub and the loader; no package
	// when they were given as files.
	Package string `json:"package,omitempty"`
	Version string `json:"version,omitempty"`
	// PCR11 is what a TPM's register 11 (SHA-256) holds when the kernel starts.
	PCR11 string `json:"pcr11"`
	// SignedBy is the SHA-256 of the certificate whose key signed; empty: nobody did.
	SignedBy string `json:"signedBy,omitempty"`
	// Loader and File are the Authenticode hashes (SHA-256) of the two programs that
	// firmware starts: a TPM's register 4 is made of them.
	Loader string `json:"loader,omitempty"`
	File   string `json:"file,omitempty"`
	// Cmdline is the kernel's command line in the OS file; the loader measures it
	// into register 12.
	Cmdline string `json:"cmdline,omitempty"`
}

// Trust is the root role in the image: whose releases a machine takes.
type Trust struct {
	RootVersion int64    `json:"rootVersion"`
	SHA256      string   `json:"sha256"` // of the file
	Keys        []string `json:"keys"`   // ids of the root keys
}

// Commit is what was built.
type Commit struct {
	Hash     string `json:"commit"`
	Modified bool   `json:"modified"` // there were changes beside the commit
}

// Part is one file of an image.
type Part struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// MeasurePart describes the file at path as a part.
func MeasurePart(path string) (Part, error) {
	f, err := os.Open(path)
	if err != nil {
		return Part{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return Part{Name: filepath.Base(path), Bytes: n, SHA256: hex.EncodeToString(h.Sum(nil))}, err
}

// pattern bounds a name's bytes beside its letters: counted repetitions in an
// expression would take 100 KB of every program with this package.
type pattern struct {
	letters *regexp.Regexp
	max     int
}

func (p pattern) MatchString(s string) bool { return len(s) <= p.max && p.letters.MatchString(s) }

var (
	partName    = pattern{regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]*$`), 100}
	editionName = pattern{regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]*[a-z0-9_])?$`), 32} // core, core-metal
	archName    = pattern{regexp.MustCompile(`^[a-z0-9][a-z0-9_]*$`), 32}
)

// ParseManifest reads and checks a manifest.
func ParseManifest(data []byte) (Manifest, error) {
	var m Manifest
	if len(data) > MaxManifestBytes {
		return m, fmt.Errorf("manifest of %d bytes: the limit is %d", len(data), MaxManifestBytes)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	if err := m.validate(); err != nil {
		return Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	return m, nil
}

func (m Manifest) validate() error {
	if !editionName.MatchString(m.Edition) || !archName.MatchString(m.Arch) {
		return fmt.Errorf("edition %.40q and architecture %.40q: want small letters and digits, and dashes in the edition", m.Edition, m.Arch)
	}
	if len(m.Parts) == 0 || len(m.Parts) > MaxParts {
		return fmt.Errorf("%d parts: want 1 to %d", len(m.Parts), MaxParts)
	}
	seen := map[string]bool{ManifestName: true}
	for _, p := range m.Parts {
		if err := p.validate(); err != nil {
			return err
		}
		if seen[p.Name] {
			return fmt.Errorf("part %q: the name is taken", p.Name)
		}
		seen[p.Name] = true
	}
	if m.Boot != nil {
		return m.Boot.validate()
	}
	return nil
}

func (b Boot) validate() error {
	if !isSHA256(b.PCR11) {
		return fmt.Errorf("boot: %.80q is not a SHA-256", b.PCR11)
	}
	for _, sum := range []string{b.SignedBy, b.Loader, b.File} {
		if sum != "" && !isSHA256(sum) {
			return fmt.Errorf("boot: %.80q is not a SHA-256", sum)
		}
	}
	if len(b.Cmdline) > maxCmdline {
		return fmt.Errorf("boot: a command line of %d bytes: the limit is %d", len(b.Cmdline), maxCmdline)
	}
	return nil
}

func isSHA256(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32
}

func (p Part) validate() error {
	if !partName.MatchString(p.Name) {
		return fmt.Errorf("part %.40q: not a file name", p.Name)
	}
	if p.Bytes < 0 || p.Bytes > MaxPartBytes {
		return fmt.Errorf("part %s: %d bytes, the limit is %d", p.Name, p.Bytes, int64(MaxPartBytes))
	}
	if !isSHA256(p.SHA256) {
		return fmt.Errorf("part %s: %.80q is not a SHA-256", p.Name, p.SHA256)
	}
	return nil
}
