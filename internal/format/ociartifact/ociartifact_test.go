// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ociartifact

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

func sample() Artifact {
	return Artifact{
		Type: "application/vnd.example.thing.v1", Tag: "1.2.3", Time: time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC),
		Annotations: map[string]string{"org.opencontainers.image.version": "1.2.3"},
		Config:      Blob{MediaType: "application/vnd.example.config.v1+json", Data: []byte(`{"parts":2}`)},
		Layers: []Blob{
			{"kernel", "application/vnd.example.kernel.v1", bytes.Repeat([]byte("kernel"), 100_000)},
			{"copy", "application/vnd.example.kernel.v1", bytes.Repeat([]byte("kernel"), 100_000)},
			{"list.json", "application/json", []byte("{}")},
		},
	}
}

// unpacked is the layout as others read it.
func unpacked(t *testing.T) v1.Image {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, sample()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cmd := exec.Command("tar", "-xf", "-", "-C", dir)
	cmd.Stdin = &b
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %s", out)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil || len(m.Manifests) != 1 || m.Manifests[0].Annotations[refKey] != "1.2.3" || m.Manifests[0].ArtifactType != "application/vnd.example.thing.v1" {
		t.Fatalf("the index: %+v, %v", m, err)
	}
	image, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func check(t *testing.T, image v1.Image) {
	t.Helper()
	if err := validate.Image(image, validate.Fast); err != nil {
		t.Error(err)
	}
	m, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i, l := range m.Layers {
		layer, err := image.LayerByDigest(l.Digest)
		if err != nil {
			t.Fatal(err)
		}
		r, err := layer.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(data, sample().Layers[i].Data) {
			t.Errorf("layer %d has %d bytes, %v", i, len(data), err)
		}
		got = append(got, l.Annotations[titleKey]+" "+string(l.MediaType))
	}
	want := []string{"kernel application/vnd.example.kernel.v1", "copy application/vnd.example.kernel.v1", "list.json application/json"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if m.Annotations["org.opencontainers.image.version"] != "1.2.3" || m.Config.MediaType != "application/vnd.example.config.v1+json" {
		t.Errorf("the manifest: %+v", m)
	}
}

// Others read the layout, and it comes back from a real registry as it went there.
func TestRegistry(t *testing.T) {
	image := unpacked(t)
	check(t, image)
	reference, err := name.ParseReference(registry(t)+"/wherry/core:1.2.3", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(reference, image); err != nil {
		t.Fatal(err)
	}
	back, err := remote.Image(reference)
	if err != nil {
		t.Fatal(err)
	}
	check(t, back)
	sent, _ := image.RawManifest()
	if got, err := back.RawManifest(); err != nil || !bytes.Equal(got, sent) || !bytes.Contains(got, []byte(`"artifactType":"application/vnd.example.thing.v1"`)) {
		t.Errorf("the manifest came back as %s, %v", got, err)
	}
}

// registry starts Debian's on a free port.
func registry(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: %s\n", filepath.Join(dir, "data"), address)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "docker-registry", "serve", config)
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: run tools/setup.sh test", err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if r, err := http.Get("http://" + address + "/v2/"); err == nil {
			r.Body.Close()
			return address
		}
		if time.Now().After(deadline) {
			t.Fatal("the registry does not answer")
		}
	}
}

func TestSameInputSameBytes(t *testing.T) {
	var a, b bytes.Buffer
	for _, w := range []*bytes.Buffer{&a, &b} {
		if err := Write(w, sample()); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) || a.Len() > 620_000 {
		t.Errorf("two artifacts of the same files differ, or hold a file twice: %d bytes", a.Len())
	}
}
