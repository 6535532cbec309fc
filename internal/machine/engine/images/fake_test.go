// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"wherry.example/wherry/config"
)

func unmount(t *testing.T, dir string) {
	t.Helper()
	must(t, mount.UnmountAll(dir, unix.MNT_DETACH))
}

// entry is one file of a layer.
type entry struct {
	tar.Header
	body string
}

func file(name, body string) entry { return entry{tar.Header{Name: name, Mode: 0o644}, body} }

func layerOf(t *testing.T, entries ...entry) v1.Layer {
	t.Helper()
	return layerOfBytes(t, tarOf(t, entries...))
}

func tarOf(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		h.Size = int64(len(e.body))
		must(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, e.body)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

func layerOfBytes(t *testing.T, b []byte) v1.Layer {
	t.Helper()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
	must(t, err)
	return l
}

// imageOf makes an image for this machine.
func imageOf(t *testing.T, layers ...v1.Layer) v1.Image {
	t.Helper()
	return imageFor(t, "amd64", layers...)
}

func imageFor(t *testing.T, arch string, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	must(t, err)
	cfg, err := img.ConfigFile()
	must(t, err)
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", arch
	cfg.Config = v1.Config{Env: []string{"A=1"}, Cmd: []string{"/hello"}, User: "7", Healthcheck: &v1.HealthConfig{Test: []string{"CMD", "/ok"}, Retries: 2}}
	img, err = mutate.ConfigFile(img, cfg)
	must(t, err)
	return img
}

// fakeRegistry is a real registry whose answers a test can spoil.
type fakeRegistry struct {
	*httptest.Server
	host string
	mu   sync.Mutex
	// spoil answers instead of the registry when it returns true.
	spoil func(w http.ResponseWriter, r *http.Request, real http.Handler) bool
	seen  []string
}

func newRegistry(t *testing.T) *fakeRegistry { return startRegistry(t, httptest.NewServer) }

func startRegistry(t *testing.T, start func(http.Handler) *httptest.Server) *fakeRegistry {
	t.Helper()
	f := &fakeRegistry{}
	real := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	f.Server = start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.seen = append(f.seen, r.Method+" "+r.URL.Path)
		spoil := f.spoil
		f.mu.Unlock()
		if spoil == nil || !spoil(w, r, real) {
			withRanges(w, r, real)
		}
	}))
	t.Cleanup(f.Server.Close)
	f.host = f.Server.Listener.Addr().String()
	return f
}

// withRanges adds what real registries do and this one does not: open-ended ranges.
func withRanges(w http.ResponseWriter, r *http.Request, real http.Handler) {
	if r.Method != http.MethodGet || r.Header.Get("Range") == "" {
		real.ServeHTTP(w, r)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(recorded(real, r).Body.Bytes()))
}

func (f *fakeRegistry) push(t *testing.T, repo string, img v1.Image) string {
	t.Helper()
	ref, err := name.ParseReference(f.host+"/"+repo, name.Insecure)
	must(t, err)
	must(t, remote.Write(ref, img, remote.WithTransport(f.Client().Transport)))
	return ref.String()
}

func (f *fakeRegistry) pushIndex(t *testing.T, repo string, idx v1.ImageIndex) string {
	t.Helper()
	ref, err := name.ParseReference(f.host+"/"+repo, name.Insecure)
	must(t, err)
	must(t, remote.WriteIndex(ref, idx))
	return ref.String()
}

func (f *fakeRegistry) set(spoil func(http.ResponseWriter, *http.Request, http.Handler) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spoil = spoil
	f.seen = nil
}

func (f *fakeRegistry) count(part string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, s := range f.seen {
		if strings.Contains(s, part) {
			n++
		}
	}
	return n
}

// plain allows this registry without TLS.
func (f *fakeRegistry) plain() config.Registry { return config.Registry{Host: f.host, PlainHTTP: true} }

// noise is bytes that do not compress, the same each time.
func noise(n int) string {
	b := make([]byte, n)
	x := uint64(88172645463325252)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x >> 32)
	}
	return string(b)
}

func isBlobGet(r *http.Request, l v1.Layer) bool {
	h, err := l.Digest()
	if err != nil {
		panic(fmt.Sprint("layer without digest: ", err))
	}
	return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/"+h.String())
}
