// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"wherry.example/wherry/internal/host/sbom"
	"wherry.example/wherry/release"
)

// defaultReleaseRoot is the file in a checkout whose images all trust one repository.
const defaultReleaseRoot = "release-root.json"

// trust is the root role in the image; the zero value is none.
type trust struct {
	file []byte
	root release.Root
}

// readTrust reads the root role and makes sure that it is one: a machine that
// carried anything else could never be updated again.
func (o Options) readTrust() (trust, error) {
	file, optional := o.ReleaseRoot, false
	if file == "" {
		file, optional = filepath.Join(o.Source, defaultReleaseRoot), true
	}
	data, err := os.ReadFile(file)
	if optional && errors.Is(err, fs.ErrNotExist) {
		return trust{}, nil
	}
	if err != nil {
		return trust{}, fmt.Errorf("root role that machines trust: %w", err)
	}
	root, err := release.ParseRoot(data)
	if err != nil {
		return trust{}, fmt.Errorf("%s is not a root role that machines can trust (want metadata/1.root.json of a release repository): %w", file, err)
	}
	return trust{data, root}, nil
}

func (t trust) sum() string {
	sum := sha256.Sum256(t.file)
	return hex.EncodeToString(sum[:])
}

func (t trust) manifest() *release.Trust {
	if t.file == nil {
		return nil
	}
	return &release.Trust{RootVersion: t.root.Version, SHA256: t.sum(), Keys: t.root.Keys}
}

func (t trust) data() []sbom.Data {
	if t.file == nil {
		return nil
	}
	return []sbom.Data{{Name: release.RootFile, Version: strconv.FormatInt(t.root.Version, 10), SHA256: t.sum()}}
}
