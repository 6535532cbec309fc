// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"

	"wherry.example/wherry/api/wherryv1"
)

// layoutTar writes an OCI layout as skopeo and podman do.
func layoutTar(t *testing.T, images map[string]v1.Image, index v1.ImageIndex) []byte {
	t.Helper()
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	must(t, err)
	for n, img := range images {
		must(t, p.AppendImage(img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": n})))
	}
	if index != nil {
		must(t, p.AppendIndex(index, layout.WithAnnotations(map[string]string{"io.containerd.image.name": "docker.io/library/multi:1"})))
	}
	return tarDir(t, dir)
}

func tarDir(t *testing.T, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must(t, w.AddFS(os.DirFS(dir)))
	must(t, w.Close())
	return b.Bytes()
}

// savedTar writes what docker save wrote until version 25.
func savedTar(t *testing.T, images map[string]v1.Image) []byte {
	t.Helper()
	refs := map[name.Reference]v1.Image{}
	for n, img := range images {
		r, err := name.NewTag(n)
		must(t, err)
		refs[r] = img
	}
	var b bytes.Buffer
	must(t, tarball.MultiRefWrite(refs, &b))
	return b.Bytes()
}

// oldSavedTar writes what docker save wrote for years: uncompressed layers in
// directories, a repeated one as a symbolic link.
func oldSavedTar(t *testing.T, n string, layers ...[]byte) []byte {
	t.Helper()
	var ls []v1.Layer
	for _, l := range layers {
		ls = append(ls, layerOfBytes(t, l))
	}
	cfg, err := imageOf(t, ls...).RawConfigFile()
	must(t, err)
	list := []map[string]any{{"Config": "abc.json", "RepoTags": []string{n}, "Layers": []string{"1/layer.tar", "2/layer.tar", "3/layer.tar"}[:len(layers)]}}
	m, err := json.Marshal(list)
	must(t, err)
	entries := []entry{file("abc.json", string(cfg)), dir("1"), file("1/VERSION", "1.0"), file("1/layer.tar", string(layers[0]))}
	for i, l := range layers[1:] {
		at := string(rune('2'+i)) + "/layer.tar"
		if bytes.Equal(l, layers[0]) {
			entries = append(entries, symlink(at, "../1/layer.tar"))
		} else {
			entries = append(entries, file(at, string(l)))
		}
	}
	return tarOf(t, append(entries, file("manifest.json", string(m)), file("repositories", "{}"))...)
}

func zstded(t *testing.T, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	must(t, err)
	return w.EncodeAll(b, nil)
}

func TestLoad(t *testing.T) {
	a := imageOf(t, layerOf(t, file("a", "a")))
	b := imageOf(t, layerOf(t, file("base", "")), layerOf(t, file("b", "b")))
	one, two := tarOf(t, file("one", "1")), tarOf(t, file("two", "2"))
	multi := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: imageFor(t, "arm64", layerOf(t, file("arm", ""))), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}},
		mutate.IndexAddendum{Add: a, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	for _, c := range []struct {
		name    string
		archive []byte
		want    map[string]string // name: a file in it
	}{
		{"a layout", layoutTar(t, map[string]v1.Image{"docker.io/me/a:1": a, "localhost/b:2": b}, nil), map[string]string{"me/a:1": "a", "localhost/b:2": "b"}},
		{"a layout with a bare tag", layoutTar(t, map[string]v1.Image{"latest": a}, nil), map[string]string{"": "a"}},
		{"a layout of an index", layoutTar(t, nil, multi), map[string]string{"multi:1": "a"}},
		{"saved", savedTar(t, map[string]v1.Image{"me/a:1": a, "b:2": b}), map[string]string{"me/a:1": "a", "b:2": "b"}},
		{"saved, gzip", gzipped(t, savedTar(t, map[string]v1.Image{"me/a:1": a})), map[string]string{"me/a:1": "a"}},
		{"a layout, zstd", zstded(t, layoutTar(t, map[string]v1.Image{"docker.io/me/a:1": a}, nil)), map[string]string{"me/a:1": "a"}},
		{"saved long ago", oldSavedTar(t, "old:1", one, two, one), map[string]string{"old:1": "two"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			got, err := w.Load(w.ctx, bytes.NewReader(c.archive))
			must(t, err)
			if len(got) != len(c.want) {
				t.Errorf("loaded %v", got)
			}
			for _, img := range got {
				n := strings.Join(img.Names, "")
				f, known := c.want[n]
				r, err := w.Resolve(w.ctx, img.Id)
				must(t, err)
				if !known || w.files(t, r.ChainID)[f] == nil {
					t.Errorf("%q: %v", n, img)
				}
			}
			if s := w.left(t); strings.Contains(s, "lease") || strings.Contains(s, "partial") {
				t.Errorf("left:\n%s", s)
			}
			// Again, and then away with all of it.
			_, err = w.Load(w.ctx, bytes.NewReader(c.archive))
			must(t, err)
			_, err = w.Prune(w.ctx, true)
			must(t, err)
			if s := w.left(t); s != "" {
				t.Errorf("left after prune:\n%s", s)
			}
		})
	}
}

func TestLoadHostile(t *testing.T) {
	good := imageOf(t, layerOf(t, file("a", "a")))
	escaping := imageOf(t, layerOf(t, file("x", ""), hardlink("h", "/etc/passwd")))
	ociLayout := file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`)
	some := layoutTar(t, map[string]v1.Image{"docker.io/me/a:1": good}, nil)
	many := make([]entry, 20_001)
	for i := range many {
		many[i] = dir("d")
	}
	for _, c := range []struct {
		name    string
		archive []byte
		want    string
	}{
		{"nothing", nil, "empty"},
		{"garbage", []byte(noise(100 << 10)), "read archive"},
		{"an empty tar", tarOf(t), "not an image archive"},
		{"a tar of something else", tarOf(t, file("README", "hi")), "not an image archive"},
		{"truncated", some[:len(some)/2], "archive"},
		{"truncated gzip", gzipped(t, some)[:300], "archive"},
		{"no index", tarOf(t, ociLayout), "without index.json"},
		{"index of nothing", tarOf(t, ociLayout, file("index.json", `{"schemaVersion":2,"manifests":[]}`)), "holds no image"},
		{"index is no JSON", tarOf(t, ociLayout, file("index.json", "<html>")), "index.json is not valid"},
		{"index too large", tarOf(t, ociLayout, file("index.json", strings.Repeat(" ", 5<<20))), "larger than"},
		{"two indexes", tarOf(t, ociLayout, file("index.json", "{}"), file("index.json", "{}")), "twice"},
		{"manifest missing", tarOf(t, ociLayout, file("index.json", `{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:`+strings.Repeat("ab", 32)+`","size":3}]}`)), "lacks the manifest"},
		{"a blob under a false name", tarOf(t, ociLayout, file("blobs/sha256/"+strings.Repeat("ab", 32), "x")), "not what its name says"},
		{"a layer missing", without(t, some, func(h *tar.Header) bool { return h.Size > 0 && isGzipLayer(t, good, h.Name) }), "archive lacks sha256:"},
		{"too many entries", tarOf(t, many...), "more than 20000 entries"},
		{"a bad name", layoutTar(t, map[string]v1.Image{"docker.io/BAD:NAME:x": good}, nil), "no image name"},
		{"saved: climbing names", tarOf(t, file("manifest.json", `[{"Config":"../../etc/passwd","Layers":["/etc/passwd"]}]`)), "lacks"},
		{"saved: a symlink to the outside", tarOf(t, file("c.json", "{}"), symlink("l.tar", "/etc/passwd"), file("manifest.json", `[{"Config":"c.json","Layers":["l.tar"]}]`)), "lacks"},
		{"saved: a loop of symlinks", tarOf(t, file("c.json", "{}"), symlink("a", "b"), symlink("b", "a"), file("manifest.json", `[{"Config":"c.json","Layers":["a"]}]`)), "lacks"},
		{"saved: the config is no config", tarOf(t, file("c.json", "[]"), file("manifest.json", `[{"Config":"c.json"}]`)), "not valid"},
		{"good and hostile", savedTar(t, map[string]v1.Image{"a:1": good, "b:1": escaping}), "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			got, err := w.Load(w.ctx, bytes.NewReader(c.archive))
			if !errors.Is(err, ErrBadImage) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v %v, want %q", got, err, c.want)
			}
			if s := w.left(t); s != "" {
				t.Errorf("left behind:\n%s", s)
			}
			_, err = w.Load(w.ctx, bytes.NewReader(some))
			must(t, err)
		})
	}
}

func isGzipLayer(t *testing.T, img v1.Image, blob string) bool {
	t.Helper()
	ls, err := img.Layers()
	must(t, err)
	d, err := ls[0].Digest()
	must(t, err)
	return filepath.Base(blob) == d.Hex
}

// without copies a tar and leaves entries out.
func without(t *testing.T, b []byte, out func(*tar.Header) bool) []byte {
	t.Helper()
	var buf bytes.Buffer
	r, w := tar.NewReader(bytes.NewReader(b)), tar.NewWriter(&buf)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		if out(h) {
			continue
		}
		must(t, w.WriteHeader(h))
		_, err = io.Copy(w, r)
		must(t, err)
	}
	must(t, w.Close())
	return buf.Bytes()
}

func TestLoadStopsBeforeTheDiskIsFull(t *testing.T) {
	w := newWorld(t)
	archive := layoutTar(t, map[string]v1.Image{"docker.io/me/a:1": imageOf(t, layerOf(t, file("big", noise(20<<20))))}, nil)
	w.Limits.Reserve = 1 << 50
	_, err := w.Load(w.ctx, bytes.NewReader(archive))
	if !errors.Is(err, ErrDiskFull) {
		t.Fatal(err)
	}
	if s := w.left(t); s != "" {
		t.Errorf("left behind:\n%s", s)
	}
}

func (w *world) load(t *testing.T, images map[string]v1.Image) {
	t.Helper()
	_, err := w.Load(w.ctx, bytes.NewReader(savedTar(t, images)))
	must(t, err)
}

func imageNames(t *testing.T, w *world) []string {
	t.Helper()
	l, err := w.List(w.ctx, "")
	must(t, err)
	var out []string
	for _, i := range l {
		out = append(out, strings.Join(i.Names, " "))
	}
	slices.Sort(out)
	return out
}

func TestTagAndRemove(t *testing.T) {
	w := newWorld(t)
	shared := layerOf(t, file("shared", noise(1<<20)))
	w.load(t, map[string]v1.Image{"a:1": imageOf(t, shared), "b:1": imageOf(t, shared, layerOf(t, file("b", "")))})
	for _, n := range []string{"a:2", "other/a:3"} {
		must(t, w.Tag(w.ctx, "a:1", n))
	}
	if err := w.Tag(w.ctx, "nothing", "x"); !errors.Is(err, ErrNotFound) {
		t.Errorf("tag of nothing: %v", err)
	}
	if err := w.Tag(w.ctx, "a:1", "Bad Name"); !errors.Is(err, ErrInvalid) {
		t.Errorf("bad tag: %v", err)
	}
	if diff := cmp.Diff([]string{"a:1 a:2 other/a:3", "b:1"}, imageNames(t, w)); diff != "" {
		t.Error(diff)
	}
	a, err := w.Resolve(w.ctx, "a:1")
	must(t, err)
	// A name that moves leaves its old image without one.
	must(t, w.Tag(w.ctx, "a:1", "b:1"))
	if diff := cmp.Diff([]string{"", "a:1 a:2 b:1 other/a:3"}, imageNames(t, w)); diff != "" {
		t.Error(diff)
	}
	if p, err := w.Prune(w.ctx, false); err != nil || len(p.Deleted) != 1 {
		t.Errorf("prune: %v %v", p, err)
	}
	// By name: one name goes. By id: only with force.
	r, err := w.Remove(w.ctx, "a:2", false)
	must(t, err)
	if diff := cmp.Diff([]string{"a:2"}, r.Untagged); diff != "" || r.Deleted != nil {
		t.Errorf("remove a:2: %v", r)
	}
	if _, err := w.Remove(w.ctx, a.ID.Encoded(), false); !errors.Is(err, ErrInUse) {
		t.Errorf("remove by id: %v", err)
	}
	// In use: refused for the last name, untagged with force, and still there.
	w.users[a.ID] = []string{"c0ffee"}
	for _, n := range []string{"other/a:3", "b:1"} {
		_, err = w.Remove(w.ctx, n, false)
		must(t, err)
	}
	if _, err := w.Remove(w.ctx, "a:1", false); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "c0ffee") {
		t.Errorf("remove in use: %v", err)
	}
	r, err = w.Remove(w.ctx, "a:1", true)
	must(t, err)
	if r.Deleted != nil || len(r.Untagged) != 1 {
		t.Errorf("forced: %v", r)
	}
	if p, err := w.Prune(w.ctx, true); err != nil || p.Deleted != nil {
		t.Errorf("prune in use: %v %v", p, err)
	}
	if x, err := w.Resolve(w.ctx, string(a.ID)); err != nil || w.files(t, x.ChainID)["shared"] == nil {
		t.Errorf("the image of a container is gone: %v", err)
	}
	delete(w.users, a.ID)
	p, err := w.Prune(w.ctx, false)
	must(t, err)
	if p.FreedBytes < 1<<20 || len(p.Deleted) != 1 {
		t.Errorf("prune: %v", p)
	}
	if s := w.left(t); s != "" {
		t.Errorf("left:\n%s", s)
	}
	if _, err := w.Remove(w.ctx, "a:1", true); !errors.Is(err, ErrNotFound) {
		t.Errorf("remove again: %v", err)
	}
}

func TestSharedLayersOutliveTheOtherImage(t *testing.T) {
	w := newWorld(t)
	shared := layerOf(t, file("shared", "s"))
	w.load(t, map[string]v1.Image{"a:1": imageOf(t, shared), "b:1": imageOf(t, shared, layerOf(t, file("b", "")))})
	_, err := w.Remove(w.ctx, "a:1", false)
	must(t, err)
	r, err := w.Resolve(w.ctx, "b:1")
	must(t, err)
	if f := w.files(t, r.ChainID); f["shared"] == nil || f["b"] == nil {
		t.Errorf("files %v", f)
	}
}

func TestInspect(t *testing.T) {
	w := newWorld(t)
	w.load(t, map[string]v1.Image{"a:1": imageOf(t, layerOf(t, file("a", "")))})
	got, err := w.Inspect(w.ctx, "a:1")
	must(t, err)
	if got.Config.User != "7" || got.Config.Command[0] != "/hello" || got.Config.Health.Test[1] != "/ok" || len(got.Layers) != 1 {
		t.Errorf("%v", got)
	}
	if _, err := w.Inspect(w.ctx, "nothing"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

func TestCrashInAPullIsRecovered(t *testing.T) {
	w, reg := newWorld(t), newRegistry(t)
	w.registries = append(w.registries, reg.plain())
	ref := reg.push(t, "x:1", imageOf(t, layerOf(t, file("first", ""))))
	// What a killed process leaves: a lease that holds content.
	job, err := w.newPull(&wherryv1.PullImageRequest{Image: ref})
	must(t, err)
	stop := errors.New("killed")
	func() {
		defer func() {
			if r := recover(); r != stop {
				panic(r)
			}
		}()
		_ = w.leased(w.ctx, job.named.String(), func(ctx context.Context) error {
			_, _, err := job.resolve(ctx)
			must(t, err)
			panic(stop)
		})
	}()
	w.Recover(w.ctx)
	if s := w.left(t); !strings.Contains(s, "lease "+partsPrefix) || strings.Count(s, "lease ") != 1 {
		t.Errorf("after recovery:\n%s", s)
	}
	_, err = w.pull(w.ctx, ref)
	must(t, err)
	if s := w.left(t); strings.Contains(s, "lease") {
		t.Errorf("left:\n%s", s)
	}
}
