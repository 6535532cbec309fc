// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"path"
	"strings"
	"testing"

	"wherry.example/wherry/release"
)

// one serves a project with one file replaced.
type one struct {
	release.Source
	name string
	data []byte
}

func (o one) Open(ctx context.Context, name string, offset int64) (io.ReadCloser, int64, error) {
	if name == o.name {
		return io.NopCloser(bytes.NewReader(o.data)), 0, nil
	}
	return o.Source.Open(ctx, name, offset)
}

// Whatever a server sends in place of the files that nothing describes
// beforehand, it ends in an error, or in what was signed.
func FuzzUnsignedMetadata(f *testing.F) {
	p := newProject(f)
	p.rotate("timestamp")
	names := []string{"metadata/timestamp.json", "metadata/2.root.json", "metadata/3.root.json"}
	for i, name := range names[:2] {
		f.Add(i, p.get(name))
	}
	f.Add(2, []byte(`{"signed":{"_type":"root","keys":{"a":null},"roles":{"root":null}},"signatures":[{"keyid":"a","sig":""}]}`))
	f.Add(0, []byte(`{"signed":{"_type":"timestamp","meta":{"snapshot.json":null}},"signatures":null}`))
	f.Fuzz(func(t *testing.T, which int, data []byte) {
		source := one{release.Dir(p.dir), names[uint(which)%uint(len(names))], data}
		r, err := release.Refresh(t.Context(), p.config(source, nil))
		if err == nil && (r.Root != 2 || len(r.Releases) != 1) {
			t.Errorf("root %d, %d releases", r.Root, len(r.Releases))
		}
	})
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(`{"version":"12.0.0","edition":"core","arch":"amd64","kernel":{},"boot":{"pcr11":"00"},"parts":[{"name":"kernel","bytes":1,"sha256":"00"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := release.ParseManifest(data)
		if err != nil {
			return
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if len(again) <= release.MaxManifestBytes {
			if _, err := release.ParseManifest(again); err != nil {
				t.Errorf("not after writing it: %v", err)
			}
		}
		for _, p := range m.Parts {
			if p.Name != path.Base(p.Name) || strings.HasPrefix(p.Name, ".") {
				t.Errorf("part %q", p.Name)
			}
		}
	})
}

func FuzzParseReport(f *testing.F) {
	f.Add([]byte(`{"id":"0123456789abcdef0123456789abcdef","version":"12.0.0","edition":"core","arch":"amd64","channel":"stable","state":"idle"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := release.ParseReport(data)
		if err == nil && (len(r.ID) != 32 || strings.ContainsAny(r.Reason, "\x00\n\x1b")) {
			t.Errorf("%+v", r)
		}
	})
}

func FuzzParseVersion(f *testing.F) {
	f.Add("12.0.0")
	f.Fuzz(func(t *testing.T, s string) {
		if v, err := release.ParseVersion(s); err == nil && v.String() != s {
			t.Errorf("%q is %s", s, v)
		}
	})
}

func FuzzOpenBundle(f *testing.F) {
	p := newProject(f)
	var b bytes.Buffer
	if err := release.WriteBundle(f.Context(), &b, p.config(release.Dir(p.dir), nil), func(release.Release) bool { return true }); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes()[:4096])
	f.Fuzz(func(t *testing.T, data []byte) {
		bundle, err := release.OpenBundle(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		if r, err := release.Refresh(t.Context(), p.config(bundle, nil)); err == nil && len(r.Releases) != 1 {
			t.Errorf("%d releases", len(r.Releases))
		}
	})
}
