// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/config"
)

// pull pulls and returns every message.
func (w *world) pull(ctx context.Context, ref string) ([]*wherryv1.PullImageResponse, error) {
	return w.pullRequest(ctx, &wherryv1.PullImageRequest{Image: ref})
}

func (w *world) pullRequest(ctx context.Context, req *wherryv1.PullImageRequest) ([]*wherryv1.PullImageResponse, error) {
	var got []*wherryv1.PullImageResponse
	err := w.Pull(ctx, req, func(m *wherryv1.PullImageResponse) error { got = append(got, m); return nil })
	return got, err
}

func TestPull(t *testing.T) {
	w, reg := newWorld(t), newRegistry(t)
	w.registries = []config.Registry{reg.plain()}
	first := layerOf(t, file("a", "one"), file("gone", "x"), file("dir/kept", "k"))
	second := layerOf(t, file("a", "two"), file(".wh.gone", ""), file("big", noise(300<<10)))
	ref := reg.push(t, "lib/app:1", imageOf(t, first, second))

	got, err := w.pull(w.ctx, ref)
	must(t, err)
	last := got[len(got)-1]
	if last.Status != "done" || last.Image == nil {
		t.Fatalf("last message: %v", last)
	}
	if diff := cmp.Diff([]string{ref}, last.Image.Names); diff != "" {
		t.Error(diff)
	}
	if last.Image.Platform != "linux/amd64" || last.Image.Bytes < 300<<10 || last.Image.UnpackedBytes < 300<<10 {
		t.Errorf("image %v", last.Image)
	}
	for _, l := range last.Layers {
		if l.Status != "done" || l.Bytes != l.TotalBytes || l.TotalBytes == 0 {
			t.Errorf("layer at the end: %v", l)
		}
	}

	r, err := w.Resolve(w.ctx, ref)
	must(t, err)
	if r.Health == nil || r.Health.Retries != 2 || r.Config.Config.User != "7" || r.ID.String() != last.Image.Id {
		t.Errorf("resolved %+v", r)
	}
	files := w.files(t, r.ChainID)
	if files["a"] == nil || files["gone"] != nil || files["dir/kept"] == nil || files["big"].Size() != 300<<10 {
		t.Errorf("files %v", files)
	}
	// Layers are not kept beside what they unpacked to.
	if s := w.left(t); strings.Count(s, "blob ") != 2 || strings.Contains(s, "lease") || strings.Contains(s, "partial") {
		t.Errorf("stores hold\n%s", s)
	}
	for _, again := range []string{string(r.ID), r.ID.Encoded()[:8], r.Digest.Encoded()} {
		if x, err := w.Resolve(w.ctx, again); err != nil || x.ID != r.ID {
			t.Errorf("resolve %s: %v", again, err)
		}
	}
	// Again: nothing is downloaded.
	reg.set(nil)
	_, err = w.pull(w.ctx, ref)
	must(t, err)
	if n := reg.count("GET"); n != 0 {
		t.Errorf("second pull made %d GETs: %v", n, reg.seen)
	}
	// What is there needs no registry at all.
	reg.Close()
	if got, err := w.pullRequest(w.ctx, &wherryv1.PullImageRequest{Image: ref, MissingOnly: true}); err != nil || got[0].Image == nil {
		t.Errorf("missing only: %v %v", got, err)
	}
}

func TestPullPlatforms(t *testing.T) {
	w, reg := newWorld(t), newRegistry(t)
	w.registries = []config.Registry{reg.plain()}
	add := func(arch string) mutate.IndexAddendum {
		return mutate.IndexAddendum{Add: imageFor(t, arch, layerOf(t, file(arch, arch))),
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}}
	}
	idx := mutate.IndexMediaType(mutate.AppendManifests(empty.Index, add("arm64"), add("amd64")), types.OCIImageIndex)
	ref := reg.pushIndex(t, "multi:1", idx)
	other := reg.pushIndex(t, "foreign:1", mutate.AppendManifests(empty.Index, add("s390x"), add("arm64")))
	wrong := reg.push(t, "single:1", imageFor(t, "riscv64", layerOf(t, file("x", ""))))

	_, err := w.pull(w.ctx, ref)
	must(t, err)
	r, err := w.Resolve(w.ctx, ref)
	must(t, err)
	if w.files(t, r.ChainID)["amd64"] == nil || r.Digest == r.Manifest {
		t.Errorf("resolved %+v", r)
	}
	_, err = w.pull(w.ctx, other)
	if err == nil || !strings.Contains(err.Error(), "no variant for linux/amd64; it has linux/s390x, linux/arm64") {
		t.Errorf("foreign index: %v", err)
	}
	if _, err := w.pull(w.ctx, wrong); !errors.Is(err, ErrBadImage) || !strings.Contains(err.Error(), "is for linux/riscv64") {
		t.Errorf("foreign image: %v", err)
	}
	_, err = w.pullRequest(w.ctx, &wherryv1.PullImageRequest{Image: ref, Platform: "linux/arm64"})
	must(t, err)
	r, err = w.Resolve(w.ctx, ref)
	must(t, err)
	if w.files(t, r.ChainID)["arm64"] == nil {
		t.Error("asked-for platform not pulled")
	}
}

func TestMisbehavingRegistries(t *testing.T) {
	for _, c := range misbehaviours {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w, reg := newWorld(t), newRegistry(t)
			w.registries = []config.Registry{reg.plain()}
			l := layerOf(t, file("big", noise(400<<10)))
			ref := reg.push(t, "x:1", imageOf(t, layerOf(t, file("small", "s")), l))
			reg.set(c.spoil(t, reg, l))
			_, err := w.pull(w.ctx, ref)
			if c.want == "" {
				must(t, err)
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, c.is) {
				t.Fatalf("got %v\nwant %q that is %v", err, c.want, c.is)
			}
			if len(err.Error()) > 1000 || strings.Count(err.Error(), "\n") > 0 {
				t.Errorf("not one clear error: %d bytes: %v", len(err.Error()), err)
			}
			if imgs, err := w.List(w.ctx, ""); err != nil || len(imgs) != 0 {
				t.Errorf("left %v %v", imgs, err)
			}
			// The parts that a later attempt could use are dropped when asked for.
			_, err = w.Prune(w.ctx, true)
			must(t, err)
			if s := w.left(t); s != "" {
				t.Errorf("left behind:\n%s", s)
			}
			reg.set(nil)
			_, err = w.pull(w.ctx, ref)
			must(t, err)
		})
	}
}

func TestNothingStaysOfRefusedImages(t *testing.T) {
	w, reg := newWorld(t), newRegistry(t)
	w.registries = []config.Registry{reg.plain()}
	bad := layerOf(t, file("x", "x"), entry{}) // an entry without a name
	ref := reg.push(t, "x:1", imageOf(t, layerOf(t, file("good", "s")), bad))
	reg.set(onBlob(func(_ int, w http.ResponseWriter, r *http.Request, real http.Handler) bool {
		ok(w, "application/octet-stream", []byte(noise(recorded(real, r).Body.Len())))
		return true
	})(t, reg, bad))
	if _, err := w.pull(w.ctx, ref); !errors.Is(err, ErrBadImage) {
		t.Fatal(err)
	}
	if s := w.left(t); s != "" {
		t.Errorf("left behind without a prune:\n%s", s)
	}
}

func TestResumeAcrossPulls(t *testing.T) {
	w, reg := newWorld(t), newRegistry(t)
	w.registries = []config.Registry{reg.plain()}
	l := layerOf(t, file("big", noise(2<<20)))
	ref := reg.push(t, "x:1", imageOf(t, l))
	reg.set(onBlob(func(n int, w http.ResponseWriter, r *http.Request, real http.Handler) bool {
		if n == 0 {
			return cut(w, r, real, 1<<20)
		}
		return cut(w, r, real, 0)
	})(t, reg, l))
	if _, err := w.pull(w.ctx, ref); !errors.Is(err, ErrRegistry) {
		t.Fatal(err)
	}
	if s := w.left(t); !strings.Contains(s, "partial ") {
		t.Fatalf("nothing kept:\n%s", s)
	}
	_, err := w.db.GarbageCollect(w.ctx) // the parts outlive it
	must(t, err)
	var from atomic.Int64
	reg.set(onBlob(func(n int, w http.ResponseWriter, r *http.Request, real http.Handler) bool {
		var off int64
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &off)
		from.Store(off)
		return false
	})(t, reg, l))
	_, err = w.pull(w.ctx, ref)
	must(t, err)
	if from.Load() < 512<<10 {
		t.Errorf("continued at %d", from.Load())
	}
	if s := w.left(t); strings.Contains(s, "lease") || strings.Contains(s, "partial") {
		t.Errorf("left:\n%s", s)
	}
}

func TestDamagedPartIsNotTrusted(t *testing.T) {
	w, reg := newWorld(t), newRegistry(t)
	w.registries = []config.Registry{reg.plain()}
	l := layerOf(t, file("big", noise(2<<20)))
	ref := reg.push(t, "x:1", imageOf(t, l))
	reg.set(onBlob(func(n int, w http.ResponseWriter, r *http.Request, real http.Handler) bool {
		if n > 0 {
			return cut(w, r, real, 0)
		}
		size := recorded(real, r).Body.Len()
		w.Header().Set("Content-Length", strconv.Itoa(size))
		io.WriteString(w, strings.Repeat("?", 1<<20))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})(t, reg, l))
	if _, err := w.pull(w.ctx, ref); err == nil {
		t.Fatal("pulled")
	}
	reg.set(nil)
	_, err := w.pull(w.ctx, ref)
	must(t, err)
}

func TestCallerVanishes(t *testing.T) {
	w, reg := newWorld(t), newRegistry(t)
	w.registries = []config.Registry{reg.plain()}
	l := layerOf(t, file("big", noise(1<<20)))
	ref := reg.push(t, "x:1", imageOf(t, l))
	reg.set(onBlob(func(_ int, w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		<-r.Context().Done()
		return true
	})(t, reg, l))
	gone := errors.New("gone")
	start := time.Now()
	err := w.Pull(w.ctx, &wherryv1.PullImageRequest{Image: ref}, func(*wherryv1.PullImageResponse) error { return gone })
	if !errors.Is(err, gone) || time.Since(start) > 5*time.Second {
		t.Fatalf("%v after %s", err, time.Since(start))
	}
	reg.set(nil)
	_, err = w.pull(w.ctx, ref)
	must(t, err)
}

func TestSamePullTwice(t *testing.T) {
	w, reg := newWorld(t), newRegistry(t)
	w.registries = []config.Registry{reg.plain()}
	shared := layerOf(t, file("base", noise(500<<10)))
	refs := []string{}
	for i := range 3 {
		refs = append(refs, reg.push(t, fmt.Sprintf("x%d:1", i), imageOf(t, shared, layerOf(t, file("own", strconv.Itoa(i))))))
	}
	reg.set(nil)
	var wg sync.WaitGroup
	errs := make([]error, 12)
	for i := range errs {
		wg.Go(func() { _, errs[i] = w.pull(w.ctx, refs[i%3]) })
	}
	wg.Wait()
	must(t, errors.Join(errs...))
	h, err := shared.Digest()
	must(t, err)
	if n := reg.count("GET /v2/x"); reg.count("blobs/"+h.String()) != 1 {
		t.Errorf("shared layer fetched %d times of %d", reg.count("blobs/"+h.String()), n)
	}
	if imgs, err := w.List(w.ctx, ""); err != nil || len(imgs) != 3 {
		t.Errorf("%v %v", imgs, err)
	}
}

func TestNeverPlainHTTPUnasked(t *testing.T) {
	w, reg := newWorld(t), newRegistry(t)
	ref := reg.push(t, "x:1", imageOf(t, layerOf(t, file("a", ""))))
	reg.set(nil)
	for _, r := range [][]config.Registry{nil, {{Host: "*", PlainHTTP: true}}} {
		w.registries = r
		if _, err := w.pull(w.ctx, ref); !errors.Is(err, ErrRegistry) {
			t.Errorf("with %v: %v", r, err)
		}
	}
	if n := reg.count("/v2/"); n != 0 {
		t.Errorf("%d requests were answered in plain", n)
	}
}

func TestPrivateAuthority(t *testing.T) {
	w, reg := newWorld(t), startRegistry(t, httptest.NewTLSServer)
	ref := reg.push(t, "x:1", imageOf(t, layerOf(t, file("a", ""))))
	if _, err := w.pull(w.ctx, ref); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without its authority: %v", err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: reg.Certificate().Raw})
	w.registries = []config.Registry{{Host: reg.host, CA: string(ca)}}
	_, err := w.pull(w.ctx, ref)
	must(t, err)
	w.registries = []config.Registry{{Host: reg.host, CA: "nonsense"}}
	if _, err := w.pull(w.ctx, ref); !errors.Is(err, ErrInvalid) {
		t.Errorf("with a bad authority: %v", err)
	}
}

// tokenAuth guards a registry as docker's token servers do.
func tokenAuth(reg *fakeRegistry, user, password string) func(http.ResponseWriter, *http.Request, http.Handler) bool {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.URL.Path == "/token" {
			r.ParseForm()
			u, p, _ := r.BasicAuth()
			if r.Form.Get("username") != "" {
				u, p = r.Form.Get("username"), r.Form.Get("password")
			}
			if u != user || p != password {
				w.WriteHeader(401)
				return true
			}
			ok(w, "application/json", []byte(`{"token":"sesame","access_token":"sesame"}`))
			return true
		}
		if r.Header.Get("Authorization") == "Bearer sesame" {
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="x",scope="repository:x:pull"`, reg.URL))
		w.WriteHeader(401)
		return true
	}
}

func TestCredentials(t *testing.T) {
	w, reg := newWorld(t), newRegistry(t)
	ref := reg.push(t, "x:1", imageOf(t, layerOf(t, file("a", ""))))
	reg.set(tokenAuth(reg, "me", "secret"))
	for _, c := range []struct {
		name   string
		config config.Registry
		auth   *wherryv1.RegistryAuth
		ok     bool
	}{
		{name: "none"},
		{name: "wrong", auth: &wherryv1.RegistryAuth{Username: "me", Password: "no"}},
		{name: "of the request", auth: &wherryv1.RegistryAuth{Username: "me", Password: "secret"}, ok: true},
		{name: "of the configuration", config: config.Registry{Username: "me", Password: "secret"}, ok: true},
		{name: "the request's come first", config: config.Registry{Username: "me", Password: "no"}, auth: &wherryv1.RegistryAuth{Username: "me", Password: "secret"}, ok: true},
		{name: "a token", auth: &wherryv1.RegistryAuth{RegistryToken: "sesame"}, ok: true},
		{name: "a wrong token", auth: &wherryv1.RegistryAuth{RegistryToken: "x"}},
	} {
		c.config.Host, c.config.PlainHTTP = reg.host, true
		w.registries = []config.Registry{c.config}
		_, err := w.pullRequest(w.ctx, &wherryv1.PullImageRequest{Image: ref, Auth: c.auth})
		if c.ok && err != nil || !c.ok && !errors.Is(err, ErrDenied) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error tells the password: %v", c.name, err)
		}
	}
}

func TestMirrors(t *testing.T) {
	origin, dead, mirror := newRegistry(t), newRegistry(t), newRegistry(t)
	img := imageOf(t, layerOf(t, file("a", noise(100<<10))))
	ref := origin.push(t, "team/x:1", img)
	mirror.push(t, "cache/team/x:1", img)
	dead.Close()
	for _, c := range []struct {
		name    string
		mirrors []string
		spoil   func(http.ResponseWriter, *http.Request, http.Handler) bool
		asked   string // who gave content
	}{
		{name: "the mirror", mirrors: []string{mirror.host + "/cache"}, asked: "mirror"},
		{name: "the second mirror", mirrors: []string{dead.host, mirror.host + "/cache"}, asked: "mirror"},
		{name: "no mirror answers", mirrors: []string{dead.host}, asked: "origin"},
		{name: "the mirror lacks it", mirrors: []string{mirror.host + "/other"}, asked: "origin"},
		{name: "the mirror fails", mirrors: []string{mirror.host + "/cache"}, spoil: always(500)(t, nil, nil), asked: "origin"},
		{name: "the mirror breaks off", mirrors: []string{mirror.host + "/cache"}, spoil: func(w http.ResponseWriter, r *http.Request, real http.Handler) bool {
			if !strings.Contains(r.URL.Path, "/blobs/") {
				return false
			}
			return cut(w, r, real, 0)
		}, asked: "origin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			plainOrigin := origin.plain()
			plainOrigin.Mirrors = c.mirrors
			w.registries = []config.Registry{plainOrigin, mirror.plain(), {Host: dead.host, PlainHTTP: true}}
			origin.set(nil)
			mirror.set(c.spoil)
			got, err := w.pull(w.ctx, ref)
			must(t, err)
			if n := got[len(got)-1].Image.Names[0]; n != ref {
				t.Errorf("named %s", n)
			}
			if fromOrigin := origin.count("GET /v2/team/x/") > 0; fromOrigin != (c.asked == "origin") {
				t.Errorf("origin was asked: %v", origin.seen)
			}
		})
	}
}

func TestPullNames(t *testing.T) {
	w := newWorld(t)
	for _, bad := range []string{"", "UPPER", "a b", strings.Repeat("x", 2000), "x:y:z", "-x", "http://x/y", "../x", "x@sha256:12", "\x00"} {
		if _, err := w.pull(w.ctx, bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	for in, want := range map[string]string{
		"nginx": "docker.io/library/nginx:latest", "me/x:2": "docker.io/me/x:2", "10.0.2.2:5000/x": "10.0.2.2:5000/x:latest", "localhost/x": "localhost/x:latest",
	} {
		n, err := parseImageName(in)
		if err != nil || n.String() != want {
			t.Errorf("%s: %v %v", in, n, err)
		}
	}
	if _, err := w.pullRequest(w.ctx, &wherryv1.PullImageRequest{Image: "x", Platform: "windows/amd64"}); !errors.Is(err, ErrInvalid) {
		t.Errorf("windows: %v", err)
	}
}
