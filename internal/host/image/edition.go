// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"wherry.example/wherry/internal/host/kernel"
)

// Edition is an image spec.
type Edition struct {
	Name       string   `yaml:"name"`
	Components []string `yaml:"components"`
	Programs   []string `yaml:"programs"`
}

var editionName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

func loadEdition(source, name string) (Edition, error) {
	var e Edition
	if !editionName.MatchString(name) {
		return e, fmt.Errorf("edition %q: not a name", name)
	}
	for _, kind := range kernel.Kinds {
		if base, ok := strings.CutSuffix(name, kind.Suffix); ok && kind.Suffix != "" {
			return e, fmt.Errorf("edition %s: that is edition %s with the kernel for %s: use --edition %s --kernel %s", name, base, kind.Name, base, kind.Name)
		}
	}
	b, err := os.ReadFile(filepath.Join(source, "editions", name+".yaml"))
	if err != nil {
		return e, fmt.Errorf("edition %s: %w", name, err)
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&e); err != nil {
		return e, fmt.Errorf("edition %s: %w", name, err)
	}
	if e.Name != name {
		return e, fmt.Errorf("edition %s: the file says name %q", name, e.Name)
	}
	return e, nil
}
