// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const manifestName = "manifest.json"

// parts are the files of every image beside its manifest.
var parts = []string{"kernel", "root.squashfs", "initramfs", "sbom.json"}

// Manifest describes an image.
type Manifest struct {
	Version string       `json:"version"`
	Edition string       `json:"edition"`
	Arch    string       `json:"arch"`
	Kernel  KernelSource `json:"kernel"`
	Modules Modules      `json:"modules"`
	Boot    *Boot        `json:"boot,omitempty"`
	Source  *Source      `json:"source,omitempty"`
	Parts   []Part       `json:"parts"`
}

// KernelSource tells where the kernel is from.
type KernelSource struct {
	Package string `json:"package,omitempty"`
	Version string `json:"version,omitempty"`
	Release string `json:"release,omitempty"`
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
}

// Modules are the kernel modules in the root, as they lie there: not compressed.
type Modules struct {
	Count int   `json:"count"`
	Bytes int64 `json:"bytes"`
}

// Source is the commit that was built.
type Source struct {
	Commit   string `json:"commit"`
	Modified bool   `json:"modified"` // there were changes beside the commit
}

// Part is one file of an image.
type Part struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// ReadManifest reads the manifest of the image in dir.
func ReadManifest(dir string) (Manifest, error) {
	var m Manifest
	b, err := os.ReadFile(filepath.Join(dir, manifestName))
	if errors.Is(err, os.ErrNotExist) {
		return m, fmt.Errorf("there is no image in %s: build one with `wherry build`", dir)
	}
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("read %s in %s: %w", manifestName, dir, err)
	}
	return m, nil
}

// Verify compares the files in dir with the manifest.
func (m Manifest) Verify(dir string) error {
	for _, want := range m.Parts {
		got, err := measure(dir, want.Name)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%s in %s is not the one that the manifest describes: build again", want.Name, dir)
		}
	}
	return nil
}

func (m Manifest) write(file string) error {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

func measure(dir, name string) (Part, error) {
	if filepath.Base(name) != name {
		return Part{}, fmt.Errorf("manifest: %q is not a file name", name)
	}
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return Part{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return Part{Name: name, Bytes: n, SHA256: hex.EncodeToString(h.Sum(nil))}, err
}

// sourceState asks git what was built; nil where there is no git.
func sourceState(ctx context.Context, dir string) *Source {
	commit, err := exec.CommandContext(ctx, "git", "-C", dir, "rev-parse", "HEAD").Output()
	if err != nil {
		return nil
	}
	status, err := exec.CommandContext(ctx, "git", "-C", dir, "status", "--porcelain").Output()
	return &Source{Commit: strings.TrimSpace(string(commit)), Modified: err != nil || len(status) > 0}
}
