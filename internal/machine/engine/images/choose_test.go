// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	someDigest = `"digest":"sha256:abababababababababababababababababababababababababababababababab"`
	ociConfig  = `"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":3,` + someDigest + `}`
	ociLayer   = `{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":3,` + someDigest + `}`
)

func TestParseManifest(t *testing.T) {
	layers := func(l ...string) string {
		return `{"schemaVersion":2,` + ociConfig + `,"layers":[` + strings.Join(l, ",") + `]}`
	}
	for _, c := range []struct{ name, in, want string }{
		{"good", layers(ociLayer), ""},
		{"no layers", layers(), ""},
		{"a foreign layer", layers(`{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","size":3,` + someDigest + `,"urls":["http://x"]}`), "foreign"},
		{"an encrypted layer", layers(`{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip+encrypted","size":3,` + someDigest + `}`), "not supported"},
		{"a negative size", layers(strings.Replace(ociLayer, "3", "-3", 1)), "negative"},
		{"a huge size", layers(strings.Replace(ociLayer, "3", "99999999999999999999", 1)), "not valid"},
		{"a short digest", layers(strings.Replace(ociLayer, "abab", "", 1)), "digest"},
		{"a weak digest", layers(`{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"md5:abababababababababababababababab"}`), "digest"},
		{"a climbing digest", layers(`{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"../../x"}`), "digest"},
		{"too many layers", layers(strings.Split(strings.Repeat(ociLayer+";", 513), ";")[:513]...), "513 layers"},
		{"a chart", strings.Replace(layers(), "vnd.oci.image.config", "vnd.cncf.helm.config", 1), "no container image"},
		{"no configuration", `{"schemaVersion":2,"layers":[]}`, "no container image"},
		{"both", strings.Replace(layers(), "{", `{"manifests":[],`, 1), "index at once"},
		{"schema 1", `{"schemaVersion":1,"fsLayers":[]}`, "schema 1"},
		{"a list", `[]`, "not valid"},
		{"nothing", ``, "not valid"},
	} {
		_, err := parseManifest([]byte(c.in), DefaultLimits)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestChooseFromIndex(t *testing.T) {
	entry := func(arch, variant, fill string) string {
		return fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":1,"digest":"sha256:%s","platform":{"os":"linux","architecture":%q,"variant":%q}}`,
			strings.Repeat(fill, 64), arch, variant)
	}
	plain := `{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":1,"digest":"sha256:` + strings.Repeat("f", 64) + `"}`
	for _, c := range []struct{ name, platform, index, want string }{
		{"the only one", "linux/amd64", entry("amd64", "", "a"), "a"},
		{"among others", "linux/amd64", entry("arm64", "", "a") + "," + entry("amd64", "", "b") + "," + entry("s390x", "", "c"), "b"},
		{"the best variant", "linux/arm/v7", entry("arm", "v5", "a") + "," + entry("arm", "v7", "b") + "," + entry("arm", "v6", "c"), "b"},
		{"an older variant", "linux/arm/v7", entry("arm", "v5", "a") + "," + entry("arm", "v6", "c"), "c"},
		{"not a newer one", "linux/arm/v6", entry("arm", "v7", "a"), ""},
		{"no platform named, one image", "linux/amd64", plain, "f"},
		{"no platform named, two", "linux/amd64", plain + "," + plain, ""},
		{"attestations do not count", "linux/amd64", entry("unknown", "", "a"), ""},
		{"none", "linux/amd64", "", ""},
		{"a bad digest", "linux/amd64", strings.Replace(entry("amd64", "", "a"), "sha256:", "sha257:", 1), ""},
	} {
		p, err := platforms.Parse(c.platform)
		must(t, err)
		d, err := chooseFromIndex([]byte(`{"schemaVersion":2,"manifests":[`+c.index+`]}`), platforms.Only(p), p)
		if (err == nil) != (c.want != "") || c.want != "" && d.Digest.Encoded() != strings.Repeat(c.want, 64) {
			t.Errorf("%s: %v %v", c.name, d.Digest, err)
		}
	}
}

func FuzzDocuments(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,` + ociConfig + `,"layers":[` + ociLayer + `]}`))
	f.Add([]byte(`{"manifests":[{"platform":{"os":"linux","architecture":"amd64"}}]}`))
	p, err := parsePlatform("linux/amd64")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := parseManifest(b, DefaultLimits); err == nil {
			for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
				if d.Size < 0 || d.Digest.Validate() != nil {
					t.Errorf("accepted %v", d)
				}
			}
		}
		if d, err := chooseFromIndex(b, platforms.Only(p), p); err == nil && (d.Size < 0 || d.Digest.Validate() != nil) {
			t.Errorf("chose %v", d)
		}
	})
}

func FuzzNames(f *testing.F) {
	f.Add("nginx")
	f.Add("10.0.2.2:5000/a/b:c@sha256:abababababababababababababababababababababababababababababababab")
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseImageName(s)
		if err != nil {
			return
		}
		again, err := parseImageName(n.String())
		if err != nil || again.String() != n.String() {
			t.Errorf("%q: %v, then %v %v", s, n, again, err)
		}
		if isNameless(n.String()) {
			t.Errorf("%q looks like the record of a nameless image", s)
		}
	})
}
