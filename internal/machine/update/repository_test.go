// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"wherry.example/wherry/internal/host/publish"
	"wherry.example/wherry/release"
)

// repository is a real one, made by the publisher's program.
type repository struct {
	t    testing.TB
	dir  string
	root string
	keys publish.Keys
	now  time.Time
	url  string
	// attack answers in place of the files when it returns true.
	attack func(http.ResponseWriter, *http.Request) bool
}

var stable = release.Rollout{Percent: 100}

func newRepository(t testing.TB) *repository {
	t.Helper()
	dir := memoryDir(t)
	r := &repository{
		t: t, dir: filepath.Join(dir, "repo"), now: release.Epoch.Add(90 * 24 * time.Hour),
		keys: publish.Keys{Dir: filepath.Join(dir, "keys"), RootFiles: []string{filepath.Join(dir, "root.pem")}},
	}
	for _, role := range []string{"root", "targets", "snapshot", "timestamp"} {
		_, err := r.keys.New(role, r.keys.RootFiles[0])
		r.check(err)
	}
	r.check(publish.Init(t.Context(), r.dir, r.keys, 1, r.clock))
	r.root = filepath.Join(r.dir, "metadata", "1.root.json")
	files := http.FileServer(http.Dir(r.dir))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if r.attack == nil || !r.attack(w, q) {
			files.ServeHTTP(w, q)
		}
	}))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	r.url = s.URL
	return r
}

func (r *repository) clock() time.Time { return r.now }

func (r *repository) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *repository) with(do func(ctx context.Context, p *publish.Repository) error) {
	r.t.Helper()
	p, err := publish.Open(r.dir, r.clock)
	r.check(err)
	defer p.Close()
	p.AnyRoot = true // the OS files are none
	r.check(do(context.Background(), p))
}

// osFile is what a version's wherry.efi holds.
func osFile(version string) []byte { return bytes.Repeat([]byte("UKI of "+version+"\n"), 20000) }

// publish puts a release into all channels.
func (r *repository) publish(version string) {
	r.t.Helper()
	v := r.publishPart(version, release.OSFile, osFile(version))
	for _, c := range []release.Channel{release.Beta, release.Stable} {
		r.with(func(ctx context.Context, p *publish.Repository) error { return p.Promote(ctx, r.keys, v, c, stable) })
	}
}

// publishEmpty publishes a release that has no OS file.
func (r *repository) publishEmpty(version string) { r.publishPart(version, "kernel", []byte("kernel")) }

func (r *repository) publishPart(version, name string, content []byte) release.Version {
	r.t.Helper()
	dir := r.t.TempDir()
	r.check(os.WriteFile(filepath.Join(dir, name), content, 0o644))
	part, err := release.MeasurePart(filepath.Join(dir, name))
	r.check(err)
	v, err := release.ParseVersion(version)
	r.check(err)
	manifest, err := json.Marshal(release.Manifest{Version: v, Edition: "core", Arch: "amd64", Parts: []release.Part{part}})
	r.check(err)
	r.check(os.WriteFile(filepath.Join(dir, release.ManifestName), manifest, 0o644))
	images, err := publish.ReadImages([]string{dir}, release.Manifest{})
	r.check(err)
	r.with(func(ctx context.Context, p *publish.Repository) error { return p.Publish(ctx, r.keys, images, stable) })
	return v
}

func writeFile(file, content string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(content), 0o644)
}

// bundle is a .wherry file with one version.
func (r *repository) bundle(version string) []byte {
	r.t.Helper()
	root, err := os.ReadFile(r.root)
	r.check(err)
	var b bytes.Buffer
	c := release.Config{Root: root, Source: release.Dir(r.dir), Now: r.clock}
	r.check(release.WriteBundle(context.Background(), &b, c, func(rel release.Release) bool { return rel.Version.String() == version }))
	return b.Bytes()
}

// world is a machine that runs a version and knows the repository.
func (r *repository) world(runs string) *world {
	w := newWorld(r.t, runs)
	w.root, w.config.URL, w.now = r.root, r.url, r.now.Add(24*time.Hour)
	return w
}
