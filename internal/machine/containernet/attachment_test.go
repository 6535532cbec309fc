// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package containernet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wherry.example/wherry/internal/atomicfile"
)

// Records that are damaged are dropped, each by itself: a start must not die of one.
func TestLoadAttachments(t *testing.T) {
	n := newNetworks(t)
	good := strings.Repeat("ab", 32)
	for name, text := range map[string]string{
		good + ".json":                          `{"Container": "` + good + `", "Endpoints": [{"Network": "default", "IPv4": "10.1.2.3"}]}`,
		"short.json":                            `{"Container": "short", "Endpoints": [{"Network": "default", "IPv4": "10.1.2.3"}]}`,
		strings.Repeat("cd", 32) + ".json":      `{"Container": "` + strings.Repeat("cd", 32) + `", "Endpoints": [{"Network": "default"}]}`,
		strings.Repeat("ef", 32) + ".json":      `{"Container": "` + good + `"}`,
		strings.Repeat("01", 32) + ".json":      `{"Container`,
		atomicfile.TempPrefix + "123-some.json": `{`,
	} {
		if err := os.WriteFile(filepath.Join(n.attachedDir(), name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.loadAttachments(); err != nil {
		t.Fatal(err)
	}
	if len(n.attached) != 1 || n.attached[good] == nil {
		t.Errorf("taken up: %v", n.attached)
	}
	if left, _ := os.ReadDir(n.attachedDir()); len(left) != 1 {
		t.Errorf("%d files are left", len(left))
	}
}
