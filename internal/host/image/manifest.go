// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"wherry.example/wherry/release"
)

// parts are the files of every image beside its manifest.
var parts = []string{"kernel", "root.squashfs", "initramfs", "sbom.json"}

// ReadManifest reads the manifest of the image in dir.
func ReadManifest(dir string) (release.Manifest, error) {
	b, err := os.ReadFile(filepath.Join(dir, release.ManifestName))
	if errors.Is(err, os.ErrNotExist) {
		return release.Manifest{}, fmt.Errorf("there is no image in %s: build one with `wherry build`", dir)
	}
	if err != nil {
		return release.Manifest{}, err
	}
	m, err := release.ParseManifest(b)
	if err != nil {
		return m, fmt.Errorf("image in %s: %w", dir, err)
	}
	return m, nil
}

// Verify compares the files in dir with the manifest.
func Verify(m release.Manifest, dir string) error {
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

func writeManifest(m release.Manifest, file string) error {
	b, err := encodeManifest(m)
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o644)
}

func encodeManifest(m release.Manifest) ([]byte, error) {
	b, err := json.MarshalIndent(m, "", "  ")
	return append(b, '\n'), err
}

func measure(dir, name string) (release.Part, error) {
	if filepath.Base(name) != name {
		return release.Part{}, fmt.Errorf("manifest: %q is not a file name", name)
	}
	return release.MeasurePart(filepath.Join(dir, name))
}

// sourceState asks git what was built; nil where there is no git.
func sourceState(ctx context.Context, dir string) *release.Commit {
	commit, err := exec.CommandContext(ctx, "git", "-C", dir, "rev-parse", "HEAD").Output()
	if err != nil {
		return nil
	}
	status, err := exec.CommandContext(ctx, "git", "-C", dir, "status", "--porcelain").Output()
	return &release.Commit{Hash: strings.TrimSpace(string(commit)), Modified: err != nil || len(status) > 0}
}
