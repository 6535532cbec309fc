// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
)

// The formats themselves are tested through package images, with a machine's stores.

func newStore(t testing.TB) content.Store {
	t.Helper()
	if err := log.SetLevel("fatal"); err != nil {
		t.Fatal(err)
	}
	s, err := local.NewStore(filepath.Join(t.TempDir(), "content"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func tarOf(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: files[i], Size: int64(len(files[i+1])), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRoomIsAskedBeforeABlobIsStored(t *testing.T) {
	full := errors.New("full")
	asked := int64(0)
	b := tarOf(t, "small", "x", "big", strings.Repeat("y", askRoomEvery))
	_, err := Import(t.Context(), newStore(t), bytes.NewReader(b), Limits{Room: func(n int64) error { asked = n; return full }})
	if !errors.Is(err, full) || asked != askRoomEvery {
		t.Errorf("%v after asking for %d", err, asked)
	}
}

// empty makes room for the next archive.
func empty(t *testing.T, store content.Store) {
	ctx := context.Background() // the test's has ended
	var blobs []digest.Digest
	err := store.Walk(ctx, func(i content.Info) error { blobs = append(blobs, i.Digest); return nil })
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // so it is while there never was a blob
		t.Error(err)
	}
	for _, d := range blobs {
		if err := store.Delete(ctx, d); err != nil {
			t.Error(err)
		}
	}
	begun, err := store.ListStatuses(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, s := range begun {
		if err := store.Abort(ctx, s.Ref); err != nil {
			t.Error(err)
		}
	}
}

func FuzzImport(f *testing.F) {
	// Workers are killed in the end and leave their directories behind: they go with ours.
	f.Setenv("TMPDIR", f.TempDir())
	f.Add(tarOf(f, "oci-layout", `{"imageLayoutVersion":"1.0.0"}`, "index.json", `{"manifests":[]}`))
	f.Add(tarOf(f, "c.json", `{}`, "1/layer.tar", "x", "manifest.json", `[{"Config":"c.json","RepoTags":["a:1"],"Layers":["1/layer.tar"]}]`))
	f.Add([]byte{0x1f, 0x8b, 8, 0})
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd})
	// One store for all: containerd's leaves a file open for each that is made.
	store := newStore(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		defer empty(t, store)
		found, err := Import(t.Context(), store, bytes.NewReader(b), Limits{Entries: 50, Document: 10_000})
		if err == nil && len(found) == 0 {
			t.Error("neither an image nor an error")
		}
		for _, i := range found {
			if _, err := store.Info(t.Context(), i.Target.Digest); err != nil {
				t.Errorf("the archive's image is not in the store: %v", err)
			}
		}
	})
}
