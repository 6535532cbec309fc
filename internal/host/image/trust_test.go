// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/internal/host/publish"
	"wherry.example/wherry/release"
)

// releaseRoot is the root role of a new repository.
func releaseRoot(t *testing.T) (file string, data []byte) {
	t.Helper()
	dir := t.TempDir()
	keys := publish.Keys{Dir: filepath.Join(dir, "keys"), RootFiles: []string{filepath.Join(dir, "root.pem")}}
	for _, role := range []string{"root", "targets", "snapshot", "timestamp"} {
		if _, err := keys.New(role, keys.RootFiles[0]); err != nil {
			t.Fatal(err)
		}
	}
	repository := filepath.Join(dir, "repository")
	if err := publish.Init(t.Context(), repository, keys, 1, time.Now); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(repository, "metadata", "1.root.json")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return file, data
}

// TestTrust builds a checkout as another version, with a root role: once by
// name, once because it lies in the checkout.
func TestTrust(t *testing.T) {
	o := options(t)
	file, data := releaseRoot(t)
	o.Version, o.ReleaseRoot = "12.1.0", file
	o.Output = filepath.Join(t.TempDir(), "named")
	named, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	got, err := exec.Command("unsquashfs", "-cat", filepath.Join(named.Dir, "root.squashfs"), "etc/wherry/root.json").Output()
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("the root image holds %.60q, %v", got, err)
	}
	sum := sha256.Sum256(data)
	m := named.Manifest
	if m.Version.String() != "12.1.0" || m.Trust == nil || m.Trust.RootVersion != 1 || m.Trust.SHA256 != hex.EncodeToString(sum[:]) || len(m.Trust.Keys) != 1 {
		t.Errorf("the manifest says %s, %+v", m.Version, m.Trust)
	}
	list, err := os.ReadFile(filepath.Join(named.Dir, "sbom.json"))
	if err != nil || !strings.Contains(string(list), hex.EncodeToString(sum[:])) || !strings.Contains(string(list), release.RootFile) {
		t.Errorf("the list of contents does not name the root role: %v", err)
	}
	write(t, o.Source, defaultReleaseRoot, string(data))
	o.ReleaseRoot, o.Output = "", filepath.Join(t.TempDir(), "found")
	found, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, named.Dir, found.Dir)
}

func TestTrustRefuses(t *testing.T) {
	source := checkout(t)
	file, data := releaseRoot(t)
	timestamp := filepath.Join(filepath.Dir(file), "timestamp.json")
	changed := filepath.Join(t.TempDir(), "changed.json")
	if err := os.WriteFile(changed, bytes.Replace(data, []byte(`"threshold":1`), []byte(`"threshold":2`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		o    Options
		says string
	}{
		"no such root":       {Options{ReleaseRoot: "/nonexistent"}, "/nonexistent"},
		"another role":       {Options{ReleaseRoot: timestamp}, "is not a root role"},
		"changed root":       {Options{ReleaseRoot: changed}, "is not a root role"},
		"version of two":     {Options{Version: "12.1"}, "want DAYS.MINOR.PATCH"},
		"version with a tag": {Options{Version: "12.1.0-rc1"}, `"0-rc1" is not a number`},
	} {
		c.o.Source, c.o.Cache = source, t.TempDir()
		if _, err := Build(t.Context(), c.o); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}
