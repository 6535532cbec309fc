// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release_test

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wherry.example/wherry/release"
)

// partial is a file that an earlier download left.
func partial(t *testing.T, content string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	return f
}

var kernel = strings.Repeat("kernel ", 10000)

// cut answers with the right bytes, but ends after some.
func cut(after int) handler {
	return on(".kernel", func(w http.ResponseWriter, r *http.Request) {
		start := 0
		if b, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
			for _, c := range strings.TrimSuffix(b, "-") {
				start = start*10 + int(c-'0')
			}
			w.Header().Set("Content-Range", "bytes "+strings.TrimSuffix(b, "-")+"-69999/70000")
			w.WriteHeader(http.StatusPartialContent)
		}
		io.WriteString(w, kernel[start:min(start+after, len(kernel))])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
}

func TestDownload(t *testing.T) {
	wrong := on(".kernel", body([]byte(strings.Repeat("x", len(kernel)))))
	for _, c := range []struct {
		name   string
		there  string
		attack handler
		want   error
		keeps  int64 // bytes that stay after an error
	}{
		{"whole", "", nil, nil, 0},
		{"resumed", kernel[:12345], nil, nil, 0},
		{"complete already", kernel, on(".kernel", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }), nil, 0},
		{"resumed from something else", strings.Repeat("y", 1000), nil, nil, 0},
		{"more than the whole there", kernel + "more", nil, nil, 0},
		{"all wrong there", strings.Repeat("z", len(kernel)), nil, nil, 0},
		{"interrupted four times", "", cut(15000), nil, 0},
		{"interrupted too often", "", cut(5000), errAny, 25000},
		{"server without ranges", kernel[:500], on(".kernel", body([]byte(kernel))), nil, 0},
		{"wrong content", "", wrong, release.ErrMismatch, 0},
		{"wrong content after a part", kernel[:500], wrong, release.ErrMismatch, 0},
		{"too short", "", on(".kernel", body([]byte(kernel[:100]))), errAny, 100},
		{"endless", "", on(".kernel", endless(false)), release.ErrMismatch, 0},
		{"10 GB", "", on(".kernel", endless(true)), release.ErrMismatch, 0},
		{"dripping", "", on(".kernel", drip), release.ErrSlow, -1},
		{"no answer", "", on(".kernel", hang), release.ErrSlow, 0},
		{"another range", kernel[:500], on(".kernel", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 0-9/10")
			w.WriteHeader(http.StatusPartialContent)
		}), errAny, 500},
		{"gone", "", on(".kernel", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }), os.ErrNotExist, 0},
		{"elsewhere", "", on(".kernel", to("http://192.0.2.1/kernel")), release.ErrRedirect, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newProject(t)
			r, err := release.Refresh(t.Context(), p.config(p.serve(c.attack), nil))
			if err != nil {
				t.Fatal(err)
			}
			f, _ := r.Releases[0].File("kernel")
			dst := partial(t, c.there)
			cost(t, func() { err = r.Download(t.Context(), f, dst) })
			got, rerr := os.ReadFile(dst.Name())
			if rerr != nil {
				t.Fatal(rerr)
			}
			switch {
			case c.want == nil && (err != nil || string(got) != kernel):
				t.Errorf("%d bytes, %v", len(got), err)
			case c.want != nil && (err == nil || c.want != errAny && !errors.Is(err, c.want)):
				t.Errorf("want %v: %v", c.want, err)
			case c.want != nil && c.keeps >= 0 && int64(len(got)) != c.keeps, len(got) > len(kernel):
				t.Errorf("%d bytes were left, want %d", len(got), c.keeps)
			}
		})
	}
}

var errAny = errors.New("any")

// A folder must not lead out of itself, nor make the reader wait.
func TestDirIsConfined(t *testing.T) {
	p := newProject(t)
	outside := filepath.Join(t.TempDir(), "timestamp.json")
	if err := os.Rename(filepath.Join(p.dir, "metadata/timestamp.json"), outside); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(p.dir, "metadata/timestamp.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := p.refresh(nil); err == nil {
		t.Error("a link out of the folder was followed")
	}
	if _, _, err := release.Dir(p.dir).Open(t.Context(), "metadata", 0); err == nil {
		t.Error("a folder was opened as a file")
	}
}

func TestManifestMustAgree(t *testing.T) {
	p := newProject(t)
	p.publish("12.1.0", map[string]string{"kernel": "one"})
	p.addTarget("releases/12.1.0/core-amd64/kernel", []byte("two"))
	p.commit()
	r, err := p.refresh(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Manifest(t.Context(), r.Releases[0]); !errors.Is(err, release.ErrMismatch) {
		t.Errorf("a manifest that tells of other files: %v", err)
	}
	if _, err := r.Manifest(t.Context(), r.Releases[1]); err != nil {
		t.Error(err)
	}
}

func TestNewHTTP(t *testing.T) {
	for _, bad := range []string{"", "releases", "file:///etc", "ftp://x/", "http://", "https://x/?a=b", "https://x/#y", ":"} {
		if _, err := release.NewHTTP(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
