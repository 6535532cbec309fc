// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"wherry.example/wherry/internal/host/bootimage"
	"wherry.example/wherry/release"
)

// The artifact holds the parts, byte for byte, and a manifest of just those; the
// script names the files beside it and the command line of the OS file.
func TestOCIAndNetboot(t *testing.T) {
	r, err := Build(t.Context(), formatOptions(t, "netboot", "oci"))
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile(filepath.Join(r.Dir, "wherry.ipxe"))
	if err != nil || !strings.HasPrefix(string(script), "#!ipxe\n") || !strings.Contains(string(script), "\nkernel kernel initrd=initramfs "+bootimage.Cmdline+"\ninitrd initramfs\n") {
		t.Errorf("the script is %q, %v", script, err)
	}
	if _, err := os.Stat(filepath.Join(r.Dir, "wherry.efi")); err == nil {
		t.Error("there is an OS file that nobody asked for")
	}
	dir := t.TempDir()
	if out, err := exec.Command("tar", "-xf", filepath.Join(r.Dir, "wherry-oci.tar"), "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("tar: %s", out)
	}
	artifact, config := onlyImage(t, dir)
	m, err := release.ParseManifest(config)
	if err != nil || m.Version != r.Manifest.Version || len(m.Parts) != len(artifact.Layers) {
		t.Fatalf("the manifest in it: %+v, %v", m, err)
	}
	if artifact.Annotations["org.opencontainers.image.version"] != "3.2.1" || artifact.Annotations["wherry.arch"] != "amd64" {
		t.Errorf("the annotations are %v", artifact.Annotations)
	}
	for i, l := range artifact.Layers {
		p := m.Parts[i]
		if l.Annotations["org.opencontainers.image.title"] != p.Name || l.Digest.Hex != p.SHA256 || l.Size != p.Bytes {
			t.Errorf("layer %+v is not part %+v", l, p)
		}
		got, err := os.ReadFile(filepath.Join(dir, "blobs", "sha256", p.SHA256))
		if err != nil {
			t.Fatal(err)
		}
		if want, err := os.ReadFile(filepath.Join(r.Dir, p.Name)); p.Name != "wherry.efi" && (err != nil || !bytes.Equal(got, want)) {
			t.Errorf("%s is another than the image's (%v)", p.Name, err)
		}
	}
}

// onlyImage reads a layout as others do.
func onlyImage(t *testing.T, dir string) (*v1.Manifest, []byte) {
	t.Helper()
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	top, err := index.IndexManifest()
	if err != nil || len(top.Manifests) != 1 || top.Manifests[0].ArtifactType != "application/vnd.wherry.release.v1" {
		t.Fatalf("the index: %+v, %v", top, err)
	}
	image, err := index.Image(top.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	m, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(dir, "blobs", "sha256", m.Config.Digest.Hex))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	config, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return m, config
}
