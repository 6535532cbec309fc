// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"wherry.example/wherry/release"
)

func bundleOf(t *testing.T, p *project) []byte {
	t.Helper()
	var b bytes.Buffer
	c := p.config(p.serve(nil), nil)
	if err := release.WriteBundle(t.Context(), &b, c, func(r release.Release) bool { return r.Version.String() == "12.1.0" }); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func readBundle(p *project, data []byte) (*release.Repository, error) {
	b, err := release.OpenBundle(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, err
	}
	return release.Refresh(p.t.Context(), p.config(b, memory{}))
}

// A bundle is read through the same checks as a repository, across rotations.
func TestBundle(t *testing.T) {
	p := newProject(t)
	p.rotate("root")
	p.rotate("timestamp")
	p.publish("12.1.0", map[string]string{"kernel": kernel})
	data := bundleOf(t, p)
	r, err := readBundle(p, data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Manifest(t.Context(), r.Releases[0]); err != nil {
		t.Error(err)
	}
	f, _ := r.Releases[0].File("kernel")
	dst := partial(t, kernel[:100])
	if err := r.Download(t.Context(), f, dst); err != nil {
		t.Error(err)
	}
	old, _ := r.Releases[1].File("kernel")
	if err := r.Verify(t.Context(), old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a release that was left out: %v", err)
	}
	if again := bundleOf(t, p); !bytes.Equal(data, again) {
		t.Error("two bundles of the same differ")
	}
}

// A bundle from before the keys were changed is told from another project's, as far as the machine knows the old keys.
func TestBundleOfOldKeys(t *testing.T) {
	for _, role := range []string{"timestamp", "snapshot", "targets"} {
		p := newProject(t)
		p.rotate("root")
		data := bundleOf(t, p)
		p.rotate(role)
		p.rotate("root")
		seen := memory{}
		if _, err := p.refresh(seen); err != nil {
			t.Fatal(err)
		}
		for name := range seen { // of the rest only the roots are certain to be there
			if !strings.HasSuffix(name, ".root.json") {
				delete(seen, name)
			}
		}
		newest := p.get("metadata/4.root.json")
		for name, c := range map[string]struct {
			root    []byte
			store   memory
			carried bool
			want    string
		}{
			"carried":                  {p.firstRoot, seen, true, "(signed as root role 2 allowed, and 4 holds now): make it anew with `wherry release bundle`"},
			"served":                   {p.firstRoot, seen, false, "keys that this project has replaced (root role 2 named them, and 4 holds now)"},
			"to a new machine":         {newest, memory{}, true, "another project's, or somebody changed it, or it is from before the project's keys were changed"},
			"another project":          {newProjectOf(t, 7).firstRoot, memory{}, true, "another project's, or somebody changed it, or it is from before"},
			"to one that knows roots":  {newest, seen, true, "(signed as root role 2 allowed, and 4 holds now)"},
			"with nonsense remembered": {newest, memory{"2.root.json": []byte("{}"), "3.root.json": newest}, true, "another project's, or"},
		} {
			b, err := release.OpenBundle(bytes.NewReader(data), int64(len(data)))
			if err != nil {
				t.Fatal(err)
			}
			config := p.config(b, c.store)
			config.Root, config.Carried = c.root, c.carried
			if _, err := release.Refresh(t.Context(), config); !errors.Is(err, release.ErrSignature) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s key, %s: %v", role, name, err)
			}
		}
	}
}

// A bundle for machines holds what they take.
func TestBundleOfParts(t *testing.T) {
	p := newProject(t)
	p.publish("12.1.0", map[string]string{"kernel": kernel, release.OSFile: "the OS"})
	var b bytes.Buffer
	if err := release.WriteBundle(t.Context(), &b, p.config(p.serve(nil), nil), func(release.Release) bool { return true }, release.OSFile); err != nil {
		t.Fatal(err)
	}
	bundle, err := release.OpenBundle(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	r, err := release.Refresh(t.Context(), p.config(bundle, memory{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		release int
		name    string
		want    bool
	}{{0, release.OSFile, true}, {0, "kernel", false}, {1, "kernel", true}} { // the older one has no OS file
		f, ok := r.Releases[c.release].File(c.name)
		if !ok || bundle.Holds(f) != c.want || (r.Verify(t.Context(), f) == nil) != c.want {
			t.Errorf("%s of %s: in the bundle %v, want %v", c.name, r.Releases[c.release].Version, bundle.Holds(f), c.want)
		}
	}
}

// Whatever byte is changed and wherever it is cut, nothing wrong comes out.
func TestBundleDamaged(t *testing.T) {
	p := newProject(t)
	p.publish("12.1.0", map[string]string{"kernel": "small"})
	data := bundleOf(t, p)
	check := func(name string, damaged []byte) {
		r, err := readBundle(p, damaged)
		if err != nil {
			return
		}
		dst := partial(t, "")
		f, _ := r.Releases[0].File("kernel")
		if r.Releases[0].Version.String() != "12.1.0" {
			t.Errorf("%s: other releases", name)
		}
		if err := r.Download(t.Context(), f, dst); err != nil {
			return
		}
		if got, _ := os.ReadFile(dst.Name()); string(got) != "small" {
			t.Errorf("%s: %q came out", name, got)
		}
	}
	for i := 0; i < len(data); i += 37 {
		damaged := bytes.Clone(data)
		damaged[i] ^= 0x40
		check("byte changed", damaged)
		check("cut", data[:i])
	}
}

func TestBundleHostile(t *testing.T) {
	make := func(headers ...tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			h.Mode = 0o644
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(w, strings.NewReader(strings.Repeat("x", 100)), min(h.Size, 100)); err != nil {
				t.Fatal(err)
			}
		}
		w.Flush()
		return b.Bytes()
	}
	many := []tar.Header{}
	for i := range 1100 {
		many = append(many, tar.Header{Name: "metadata/" + version(t, "1.0.0").String()[:1] + strings.Repeat("1", i%7) + ".root.json"})
	}
	for name, data := range map[string][]byte{
		"empty":     {},
		"no tar":    []byte(strings.Repeat("hello", 1000)),
		"path":      make(tar.Header{Name: "metadata/../../etc/passwd"}),
		"absolute":  make(tar.Header{Name: "/metadata/1.root.json"}),
		"link":      make(tar.Header{Name: "metadata/1.root.json", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}),
		"device":    make(tar.Header{Name: "metadata/1.root.json", Typeflag: tar.TypeBlock}),
		"twice":     make(tar.Header{Name: "metadata/1.root.json"}, tar.Header{Name: "metadata/1.root.json"}),
		"cut off":   make(tar.Header{Name: "metadata/1.root.json", Size: 100})[:520],
		"many":      make(many...),
		"other":     make(tar.Header{Name: "README"}),
		"too large": append(make(tar.Header{Name: "metadata/1.root.json", Size: 0}), hugeHeader()...),
	} {
		var err error
		cost(t, func() { _, err = release.OpenBundle(bytes.NewReader(data), int64(len(data))) })
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// hugeHeader tells of a file of 8 exabytes.
func hugeHeader() []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Name: "metadata/timestamp.json", Size: 1<<62 + 1, Mode: 0o644, Format: tar.FormatGNU})
	return b.Bytes()
}
