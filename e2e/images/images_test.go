// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package images promises that a machine takes images from a real registry and
// from archives, and that a bad image or registry costs one clear error: it
// leaves nothing behind and the next good pull works.
package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	gcrregistry "github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"wherry.example/wherry/internal/vmtest"
	"wherry.example/wherry/internal/vmtest/fixture"
)

func TestImages(t *testing.T) {
	real, bad := fixture.NewRegistry(t), newBadRegistry(t)
	u := vmtest.NewUser(t)
	m := vmtest.Start(t, vmtest.Options{DiskBytes: 1 << 30, Config: u.Config(
		"registries:",
		"- {host: '"+real.Guest+"', plainHTTP: true}",
		"- {host: '"+bad.guest+"', plainHTTP: true}",
		"")})
	u.Knows(m)

	t.Run("pulled from a real registry", func(t *testing.T) { pullReal(t, u, real) })
	t.Run("loaded from an archive", func(t *testing.T) { loadArchive(t, u) })
	u.Run("image", "prune", "--all", "--force")
	for _, c := range badImages {
		t.Run(c.name, func(t *testing.T) {
			image := "bad:" + strconv.Itoa(len(c.name))
			bad.push(t, image, c.layers(t)...)
			bad.spoil = c.spoil
			defer func() { bad.spoil = nil }()
			r := u.Try("image", "pull", bad.guest+"/"+image)
			if r.Code == 0 || !strings.Contains(r.Stderr, c.want) {
				t.Fatalf("exit code %d: %s", r.Code, r.Stderr)
			}
			// Before it there may be lines of progress.
			lines := strings.Split(strings.TrimSpace(r.Stderr), "\n")
			if strings.Count(r.Stderr, "wherry: ") != 1 || !strings.HasPrefix(lines[len(lines)-1], "wherry: ") {
				t.Errorf("not one clear error: %s", r.Stderr)
			}
			if out := u.Run("image", "ls", "-q"); out != "" {
				t.Errorf("images are left: %s", out)
			}
			u.Run("image", "pull", real.Ref(fixture.Tools))
			u.Run("image", "rm", real.Ref(fixture.Tools))
		})
	}
}

func pullReal(t *testing.T, u *vmtest.User, r *fixture.Registry) {
	for _, image := range []string{fixture.Nginx, fixture.Redis, fixture.Postgres} {
		out := u.Run("-o", "json", "image", "pull", r.Ref(image))
		var got struct {
			Names    []string `json:"names"`
			ID       string   `json:"id"`
			Platform string   `json:"platform"`
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		want, err := r.Image(image).ConfigName()
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Names) != 1 || got.Names[0] != r.Ref(image)+":latest" || got.ID != want.String() {
			t.Errorf("pulled %+v, want %s", got, want)
		}
	}
	if out := u.Run("image", "ls", "-q"); strings.Count(out, "\n") != 3 {
		t.Errorf("images: %s", out)
	}
	if out := u.Run("run", "--rm", "--entrypoint", "/usr/sbin/nginx", r.Ref(fixture.Nginx), "-v"); out != "" {
		t.Errorf("nginx -v said %q on standard output", out) // its version goes to standard error
	}
	if r := u.Try("image", "pull", r.Ref("nothing")); r.Code == 0 || !strings.Contains(r.Stderr, "no such image") {
		t.Errorf("pull of nothing: %+v", r)
	}
}

func loadArchive(t *testing.T, u *vmtest.User) {
	u.Run("load", "-i", fixture.Archive(t, "localhost/tools:1", fixture.Toybox(t)))
	if out := u.Run("run", "--rm", "localhost/tools:1", "echo", "from an archive"); out != "from an archive\n" {
		t.Errorf("it said %q", out)
	}
}

// badImages are refused. The table of what layers and registries can do, case
// by case, is in internal/machine/engine/images; here is what needs a machine.
var badImages = []struct {
	name   string
	layers func(t *testing.T) []v1.Layer
	spoil  func(http.ResponseWriter, *http.Request, http.Handler) bool
	want   string
}{
	{"10 GB of zeros in 10 MB", func(*testing.T) []v1.Layer { return []v1.Layer{zeros(10 << 30)} }, nil, "decompression bomb"},
	{"more than the disk", func(*testing.T) []v1.Layer {
		// One layer four times over: each is unpacked by itself, and none is a bomb.
		return slices.Repeat([]v1.Layer{zeros(400 << 20)}, 4)
	}, nil, "the state disk is full"},
	{"a hard link to the outside", func(t *testing.T) []v1.Layer {
		return []v1.Layer{layer(t, tar.Header{Name: "x", Typeflag: tar.TypeLink, Linkname: "../../../../../../etc/passwd"})}
	}, nil, "no such file"},
	{"a manifest of 50 MB", good, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
		w.Header().Set("Content-Length", strconv.Itoa(50<<20))
		if r.Method == http.MethodGet {
			io.CopyN(w, zeroReader{}, 50<<20)
		}
		return true
	}, "larger than"},
	{"a registry that redirects to a file", good, onBlobs(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "file:///etc/passwd")
		w.WriteHeader(http.StatusTemporaryRedirect)
	}), "refused"},
	{"a registry that sends garbage", good, onBlobs(func(w http.ResponseWriter, r *http.Request) {
		io.CopyN(w, zeroReader{}, 1<<20)
	}), "refused"},
	{"a registry that answers 500", good, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	}, "500"},
	{"a registry that stalls", good, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		<-r.Context().Done()
		return true
	}, "sent nothing for"},
}

func good(t *testing.T) []v1.Layer { return []v1.Layer{layer(t, tar.Header{Name: "ok"})} }

func onBlobs(f func(http.ResponseWriter, *http.Request)) func(http.ResponseWriter, *http.Request, http.Handler) bool {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		f(w, r)
		return true
	}
}

func layer(t *testing.T, headers ...tar.Header) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// zeros is a layer of one file of zeros. Gzip streams can be joined, so only
// its first part has to be compressed. The diff id of a large one is wrong,
// which nobody should come to find out.
func zeros(size int64) v1.Layer {
	var out, part bytes.Buffer
	const chunk = 16 << 20
	pack := func(to *bytes.Buffer, from io.Reader) {
		z, err := gzip.NewWriterLevel(to, gzip.BestCompression)
		if err == nil {
			_, err = io.Copy(z, from)
		}
		if err == nil {
			err = z.Close()
		}
		if err != nil {
			panic(fmt.Sprint("compress zeros in memory: ", err))
		}
	}
	var head bytes.Buffer
	if err := tar.NewWriter(&head).WriteHeader(&tar.Header{Name: "zeros", Size: size, Mode: 0o644, Format: tar.FormatGNU}); err != nil {
		panic(fmt.Sprint("write a header in memory: ", err))
	}
	pack(&out, &head)
	pack(&part, io.LimitReader(zeroReader{}, chunk))
	for range size / chunk {
		out.Write(part.Bytes())
	}
	pack(&out, io.LimitReader(zeroReader{}, size%chunk+1024))
	return known(static.NewLayer(out.Bytes(), types.OCILayer), size)
}

// knownLayer has the diff id that static layers lack.
type knownLayer struct {
	v1.Layer
	id v1.Hash
}

func (l knownLayer) DiffID() (v1.Hash, error) { return l.id, nil }

func known(l v1.Layer, size int64) v1.Layer {
	if size > 1<<30 {
		return l
	}
	rc, err := l.Compressed()
	if err != nil {
		panic(fmt.Sprint("read a layer in memory: ", err))
	}
	z, err := gzip.NewReader(rc)
	if err != nil {
		panic(fmt.Sprint("read a layer in memory: ", err))
	}
	id, _, err := v1.SHA256(z)
	if err != nil {
		panic(fmt.Sprint("read a layer in memory: ", err))
	}
	return knownLayer{l, id}
}

// badRegistry is a registry on the host's loopback whose answers a test spoils.
type badRegistry struct {
	addr, guest string
	spoil       func(http.ResponseWriter, *http.Request, http.Handler) bool
}

func newBadRegistry(t *testing.T) *badRegistry {
	t.Helper()
	b := &badRegistry{}
	real := gcrregistry.New(gcrregistry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b.spoil == nil || !b.spoil(w, r, real) {
			real.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	b.addr = s.Listener.Addr().String()
	b.guest = "10.0.2.2:" + b.addr[strings.LastIndexByte(b.addr, ':')+1:]
	return b
}

func (b *badRegistry) push(t *testing.T, image string, layers ...v1.Layer) {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(b.addr+"/"+image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
}
