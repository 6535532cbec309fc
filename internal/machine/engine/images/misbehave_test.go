// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// spoiled is a registry's misbehaviour and what has to come of it.
type spoiled struct {
	name  string
	spoil func(t *testing.T, reg *fakeRegistry, l v1.Layer) func(http.ResponseWriter, *http.Request, http.Handler) bool
	want  string // in the error; empty: the pull succeeds all the same
	is    error
}

func always(status int) func(*testing.T, *fakeRegistry, v1.Layer) func(http.ResponseWriter, *http.Request, http.Handler) bool {
	return func(*testing.T, *fakeRegistry, v1.Layer) func(http.ResponseWriter, *http.Request, http.Handler) bool {
		return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			w.WriteHeader(status)
			return true
		}
	}
}

func redirectBlobs(to string) func(*testing.T, *fakeRegistry, v1.Layer) func(http.ResponseWriter, *http.Request, http.Handler) bool {
	return func(_ *testing.T, _ *fakeRegistry, l v1.Layer) func(http.ResponseWriter, *http.Request, http.Handler) bool {
		return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if !isBlobGet(r, l) {
				return false
			}
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusTemporaryRedirect)
			return true
		}
	}
}

// onBlob spoils the layer's downloads, told how many there were before.
func onBlob(f func(n int, w http.ResponseWriter, r *http.Request, real http.Handler) bool) func(*testing.T, *fakeRegistry, v1.Layer) func(http.ResponseWriter, *http.Request, http.Handler) bool {
	return func(_ *testing.T, _ *fakeRegistry, l v1.Layer) func(http.ResponseWriter, *http.Request, http.Handler) bool {
		var n atomic.Int32
		return func(w http.ResponseWriter, r *http.Request, real http.Handler) bool {
			return isBlobGet(r, l) && f(int(n.Add(1))-1, w, r, real)
		}
	}
}

func onManifest(f func(w http.ResponseWriter, r *http.Request)) func(*testing.T, *fakeRegistry, v1.Layer) func(http.ResponseWriter, *http.Request, http.Handler) bool {
	return func(*testing.T, *fakeRegistry, v1.Layer) func(http.ResponseWriter, *http.Request, http.Handler) bool {
		return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			f(w, r)
			return true
		}
	}
}

// record answers as the registry would, for a test to alter.
func recorded(real http.Handler, r *http.Request) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	q := r.Clone(r.Context())
	q.Header.Del("Range")
	real.ServeHTTP(rec, q)
	return rec
}

func ok(w http.ResponseWriter, mediaType string, body []byte) {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body)
}

var misbehaviours = []spoiled{
	{name: "500", spoil: always(500), want: "500 Internal Server Error", is: ErrRegistry},
	{name: "404", spoil: always(404), want: "no such image", is: ErrNotFound},
	{name: "403", spoil: always(403), want: "access denied", is: ErrDenied},
	{name: "503 twice, then well", spoil: onBlob(func(n int, w http.ResponseWriter, _ *http.Request, _ http.Handler) bool {
		if n < 2 {
			w.WriteHeader(503)
		}
		return n < 2
	})},
	{name: "redirect to file", spoil: redirectBlobs("file:///etc/passwd"), want: "no https address", is: ErrRegistry},
	{name: "redirect to other host in plain", spoil: redirectBlobs("http://127.0.0.9:1/blob"), want: "refused: plain HTTP to 127.0.0.9:1", is: ErrRegistry},
	{name: "redirect loop", spoil: func(t *testing.T, reg *fakeRegistry, l v1.Layer) func(http.ResponseWriter, *http.Request, http.Handler) bool {
		h, err := l.Digest()
		must(t, err)
		return redirectBlobs(reg.URL+"/v2/x/blobs/"+h.String())(t, reg, l)
	}, want: "10 redirects", is: ErrRegistry},
	{name: "silence before the answer", spoil: onManifest(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
	}), want: "sent nothing for", is: ErrRegistry},
	{name: "silence in a layer, for ever", spoil: onBlob(func(_ int, w http.ResponseWriter, r *http.Request, real http.Handler) bool {
		w.Header().Set("Content-Length", "400000")
		w.Write([]byte("x"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}), want: "sent nothing for", is: ErrRegistry},
	{name: "silence in a layer, once", spoil: onBlob(func(n int, w http.ResponseWriter, r *http.Request, real http.Handler) bool {
		if n > 0 {
			return false
		}
		body := recorded(real, r).Body.Bytes()
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body[:len(body)/2])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	})},
	{name: "connection cut in a layer, again and again", spoil: onBlob(func(n int, w http.ResponseWriter, r *http.Request, real http.Handler) bool {
		if n > 4 {
			return false
		}
		return cut(w, r, real, 50<<10)
	})},
	{name: "no ranges after a cut", spoil: onBlob(func(n int, w http.ResponseWriter, r *http.Request, real http.Handler) bool {
		if n == 0 {
			return cut(w, r, real, 50<<10)
		}
		ok(w, "application/octet-stream", recorded(real, r).Body.Bytes())
		return true
	})},
	{name: "a layer that always ends early", spoil: onBlob(func(_ int, w http.ResponseWriter, r *http.Request, real http.Handler) bool {
		ok(w, "application/octet-stream", recorded(real, r).Body.Bytes()[:1000])
		return true
	}), want: "ended after 1000 of", is: ErrRegistry},
	{name: "refuses ranges after a cut", spoil: onBlob(func(n int, w http.ResponseWriter, r *http.Request, real http.Handler) bool {
		if n == 0 {
			return cut(w, r, real, 50<<10)
		}
		if r.Header.Get("Range") != "" {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return true
		}
		return false
	})},
	{name: "a truncated layer without more", spoil: onBlob(func(n int, w http.ResponseWriter, r *http.Request, real http.Handler) bool {
		if n == 0 {
			return cut(w, r, real, 1000)
		}
		w.Header().Set("Content-Range", "bytes 1000-1000/1000")
		w.WriteHeader(http.StatusPartialContent)
		return true
	}), want: "ended after 1000 of", is: ErrRegistry},
	{name: "garbage as a layer", spoil: onBlob(func(_ int, w http.ResponseWriter, r *http.Request, real http.Handler) bool {
		ok(w, "application/octet-stream", []byte(noise(recorded(real, r).Body.Len())))
		return true
	}), want: "content is not what its digest says", is: ErrBadImage},
	{name: "garbage as a manifest", spoil: onManifest(func(w http.ResponseWriter, r *http.Request) {
		ok(w, "application/vnd.oci.image.manifest.v1+json", []byte("<html>"))
	}), want: "not valid", is: ErrBadImage},
	{name: "a web page", spoil: onManifest(func(w http.ResponseWriter, r *http.Request) {
		ok(w, "text/html", []byte("<html>"))
	}), want: `media type is "text/html"`, is: ErrBadImage},
	{name: "schema 1", spoil: onManifest(func(w http.ResponseWriter, r *http.Request) {
		ok(w, "application/vnd.docker.distribution.manifest.v2+json", []byte(`{"schemaVersion":1}`))
	}), want: "schema 1", is: ErrBadImage},
	{name: "manifest of 50 MB, announced", spoil: onManifest(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		w.Header().Set("Content-Length", strconv.Itoa(50<<20))
	}), want: "manifest from", is: ErrRegistry},
	{name: "manifest of 50 MB, unannounced", spoil: onManifest(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		for range 50 {
			w.Write(make([]byte, 1<<20))
			w.(http.Flusher).Flush()
		}
	}), want: "larger than 4194304 bytes", is: ErrRegistry},
	{name: "manifest of another digest", spoil: onManifest(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("ab", 32))
		ok(w, "application/vnd.oci.image.manifest.v1+json", []byte("{}"))
	}), want: "content is not what its digest says", is: ErrBadImage},
	{name: "endless headers", spoil: onManifest(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("x", 1<<20))
	}), want: "header", is: ErrRegistry},
	{name: "token server in plain", spoil: func(*testing.T, *fakeRegistry, v1.Layer) func(http.ResponseWriter, *http.Request, http.Handler) bool {
		return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://127.0.0.9:1/token",service="x"`)
			w.WriteHeader(401)
			return true
		}
	}, want: "refused: plain HTTP to 127.0.0.9:1", is: ErrRegistry},
	{name: "wants a login", spoil: func(*testing.T, *fakeRegistry, v1.Layer) func(http.ResponseWriter, *http.Request, http.Handler) bool {
		return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(401)
			return true
		}
	}, want: "access denied", is: ErrDenied},
}

// cut sends some bytes from where the range starts, then drops the connection.
func cut(w http.ResponseWriter, r *http.Request, real http.Handler, n int) bool {
	body := recorded(real, r).Body.Bytes()
	off := 0
	if h := r.Header.Get("Range"); h != "" {
		fmt.Sscanf(h, "bytes=%d-", &off)
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, len(body)-1, len(body)))
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)-off))
	if off > 0 {
		w.WriteHeader(http.StatusPartialContent)
	}
	w.Write(body[off:min(off+n, len(body))])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}
