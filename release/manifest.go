// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
)

// Bounds of a manifest.
const (
	ManifestName     = "manifest.json"
	MaxManifestBytes = 64 << 10
	MaxParts         = 64
	MaxPartBytes     = 4 << 30
)

// Manifest describes the files of one edition of a release for one
// architecture. Fields that this version does not know are left alone, so
// that old machines can read new manifests.
type Manifest struct {
	Version Version           `json:"version"`
	Edition string            `json:"edition"`
	Arch    string            `json:"arch"`
	Kernel  Kernel            `json:"kernel"`
	PCR11   map[string]string `json:"pcr11,omitempty"` // by hash algorithm: what a TPM measures when this release boots
	Parts   []Part            `json:"parts"`
}

// Kernel tells where the kernel is from.
type Kernel struct {
	Package string `json:"package,omitempty"`
	Version string `json:"version,omitempty"`
	Release string `json:"release,omitempty"`
}

// Part is one file of an image.
type Part struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

var (
	partName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$`)
	wordName = regexp.MustCompile(`^[a-z0-9][a-z0-9_]{0,31}$`)
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
	if !wordName.MatchString(m.Edition) || !wordName.MatchString(m.Arch) {
		return fmt.Errorf("edition %.40q and architecture %.40q: want small letters and digits", m.Edition, m.Arch)
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
	for bank, value := range m.PCR11 {
		if b, err := hex.DecodeString(value); !wordName.MatchString(bank) || err != nil || len(b) < 20 || len(b) > 64 {
			return fmt.Errorf("pcr11 %.40q: %.80q is not a hash", bank, value)
		}
	}
	return nil
}

func (p Part) validate() error {
	if !partName.MatchString(p.Name) {
		return fmt.Errorf("part %.40q: not a file name", p.Name)
	}
	if p.Bytes < 0 || p.Bytes > MaxPartBytes {
		return fmt.Errorf("part %s: %d bytes, the limit is %d", p.Name, p.Bytes, int64(MaxPartBytes))
	}
	if b, err := hex.DecodeString(p.SHA256); err != nil || len(b) != 32 {
		return fmt.Errorf("part %s: %.80q is not a SHA-256", p.Name, p.SHA256)
	}
	return nil
}
