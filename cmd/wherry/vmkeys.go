// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// vmPublicKeys are the keys that a new virtual machine lets in: the user's own,
// as the files beside the private ones tell them.
func vmPublicKeys() ([]string, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, fmt.Errorf("find your SSH keys: %w", err)
	}
	var keys []string
	for _, name := range []string{"id_ed25519.pub", "id_ecdsa.pub"} {
		data, err := os.ReadFile(filepath.Join(home, ".ssh", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read your SSH key: %w", err)
		}
		keys = append(keys, strings.TrimSpace(string(data)))
	}
	return keys, nil
}
