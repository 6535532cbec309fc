// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"wherry.example/wherry/config"
)

func dir(name string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}}
}
func symlink(name, to string) entry {
	return entry{Header: tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink, Mode: 0o777}}
}
func hardlink(name, to string) entry {
	return entry{Header: tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeLink}}
}
func device(name string, kind byte, major, minor int64) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: kind, Devmajor: major, Devminor: minor, Mode: 0o666}}
}

// hostileLayers try to reach outside the image. Each either becomes harmless
// (files is what the image then holds) or is refused.
var hostileLayers = []struct {
	name    string
	layers  [][]entry
	files   []string // beside the root; nil: refused
	refused string
}{
	{"dot dot", [][]entry{{file("../../../escape", "x")}}, []string{"escape"}, ""},
	{"absolute", [][]entry{{file("/escape", "x")}}, []string{"escape"}, ""},
	{"through an absolute symlink", [][]entry{{symlink("l", "/OUT"), file("l/escape", "x")}}, []string{"OUT", "OUT/escape", "l"}, ""},
	{"through a climbing symlink", [][]entry{{symlink("l", "../../../../../../../../OUT"), file("l/escape", "x")}}, []string{"OUT", "OUT/escape", "l"}, ""},
	{"through a symlink of a lower layer", [][]entry{{symlink("l", "/OUT")}, {file("l/escape", "x")}}, []string{"l", "l/escape"}, ""},
	{"through a chain of symlinks", [][]entry{{symlink("a", "b"), symlink("b", "/OUT"), dir("a/d"), file("a/d/escape", "x")}}, []string{"OUT", "OUT/d", "OUT/d/escape", "a", "b"}, ""},
	{"over a symlink", [][]entry{{symlink("l", "/OUT/victim"), file("l", "x")}}, []string{"l"}, ""},
	{"hard link to the outside", [][]entry{{hardlink("h", "../../../../../../../../OUT/victim"), file("h", "overwritten")}}, nil, "no such file"},
	{"hard link to an absolute path", [][]entry{{hardlink("h", "/OUT/victim")}}, nil, "no such file"},
	{"hard link through a symlink", [][]entry{{symlink("l", "/OUT"), hardlink("h", "l/victim")}}, nil, "no such file"},
	{"hard link to the root", [][]entry{{hardlink("h", "..")}}, nil, "operation not permitted"},
	{"whiteout of the outside", [][]entry{{symlink("l", "/OUT"), file("l/.wh.victim", "")}}, []string{"OUT", "l"}, ""},
	{"whiteout of dot dot", [][]entry{{file("d/.wh...", "")}}, nil, "invalid whiteout"},
	{"whiteout of dot", [][]entry{{file("d/.wh..", "")}}, nil, "invalid whiteout"},
	{"opaque outside", [][]entry{{file("x", "")}, {symlink("l", "/OUT"), file("l/.wh..wh..opq", "")}}, []string{"OUT", "l", "x"}, ""},
	{"device nodes", [][]entry{{device("sda", tar.TypeBlock, 8, 0), device("mem", tar.TypeChar, 1, 1), device("whiteout", tar.TypeChar, 0, 0), file("ok", "")}}, []string{"ok"}, ""},
	{"the root replaced by a symlink", [][]entry{{symlink(".", "/OUT"), symlink("/", "/OUT"), file("x", "")}}, []string{"x"}, ""},
	{"a file where a directory is needed", [][]entry{{file("f", ""), file("f/x", "")}}, nil, "not a directory"},
	{"a name too long", [][]entry{{file(strings.Repeat("n", 5000), "")}}, nil, "too long"},
	{"a path too deep", [][]entry{{file(strings.Repeat("d/", 3000)+"f", "")}}, nil, "too long"},
	{"no name", [][]entry{{entry{Header: tar.Header{Name: "", Mode: 0o644}}, file("ok", "")}}, []string{"ok"}, ""},
	{"an unknown kind", [][]entry{{entry{Header: tar.Header{Name: "x", Typeflag: 'Z'}}}}, nil, "unhandled tar header"},
}

func TestHostileLayers(t *testing.T) {
	for _, c := range hostileLayers {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w, reg := newWorld(t), newRegistry(t)
			w.registries = []config.Registry{reg.plain()}
			// The files that layers try to reach, under a name that is nowhere else.
			outside := t.TempDir()
			victim := filepath.Join(outside, "victim")
			must(t, os.WriteFile(victim, []byte("untouched"), 0o600))
			before := snapshotOf(t, outside)
			var layers []v1.Layer
			for _, entries := range c.layers {
				l := make([]entry, len(entries))
				for i, e := range entries {
					e.Linkname = strings.ReplaceAll(e.Linkname, "/OUT", outside)
					l[i] = e
				}
				layers = append(layers, layerOf(t, l...))
			}
			ref := reg.push(t, "x:1", imageOf(t, layers...))
			_, err := w.pull(w.ctx, ref)
			if diff := cmp.Diff(before, snapshotOf(t, outside)); diff != "" {
				t.Fatalf("something outside changed: %s", diff)
			}
			if _, e := os.Lstat("/escape"); e == nil {
				t.Fatal("/escape exists")
			}
			if c.files == nil {
				if !errors.Is(err, ErrBadImage) || !strings.Contains(err.Error(), c.refused) {
					t.Fatalf("got %v, want %q", err, c.refused)
				}
				if s := w.left(t); s != "" {
					t.Errorf("left behind:\n%s", s)
				}
				return
			}
			must(t, err)
			r, err := w.Resolve(w.ctx, ref)
			must(t, err)
			if diff := cmp.Diff(c.files, names(w.files(t, r.ChainID), outside)); diff != "" {
				t.Errorf("files: %s", diff)
			}
		})
	}
}

// names lists paths with the way to the outside directory written OUT.
func names(files map[string]os.FileInfo, outside string) []string {
	var out []string
	rel := strings.TrimPrefix(outside, "/")
	for p := range files {
		if p == "." || strings.HasPrefix(rel, p+"/") {
			continue
		}
		if after, ok := strings.CutPrefix(p, rel); ok {
			p = "OUT" + after
		}
		out = append(out, p)
	}
	sort.Strings(out)
	return out
}

func snapshotOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	must(t, filepath.Walk(dir, func(p string, i os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		body := ""
		if i.Mode().IsRegular() {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			body = string(b)
		}
		out[p] = fmt.Sprintf("%v links=%d %s", i.Mode(), i.Sys().(*syscall.Stat_t).Nlink, body)
		return nil
	}))
	return out
}

func TestAttributesOfFiles(t *testing.T) {
	w, reg := newWorld(t), newRegistry(t)
	w.registries = []config.Registry{reg.plain()}
	capability := string([]byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	e := file("ping", "x")
	e.Mode, e.Uid, e.Gid = 0o4755, 12, 34
	e.PAXRecords = map[string]string{
		"SCHILY.xattr.security.capability":        capability,
		"SCHILY.xattr.trusted.overlay.redirect":   "/etc",
		"SCHILY.xattr.user.kept":                  "yes",
		"SCHILY.xattr.security.selinux":           "spoof",
		"SCHILY.xattr.user.overlay.opaque":        "y",
		"LIBARCHIVE.xattr.trusted.overlay.opaque": "y",
	}
	e.Format = tar.FormatPAX
	d := dir("d")
	d.PAXRecords = map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.trusted.overlay.redirect": "/etc"}
	ref := reg.push(t, "x:1", imageOf(t, layerOf(t, file("d/below", "")), layerOf(t, e, d)))
	_, err := w.pull(w.ctx, ref)
	must(t, err)
	r, err := w.Resolve(w.ctx, ref)
	must(t, err)
	files := w.files(t, r.ChainID)
	st := files["ping"].Sys().(*syscall.Stat_t)
	if files["ping"].Mode() != 0o755|os.ModeSetuid || st.Uid != 12 || st.Gid != 34 {
		t.Errorf("mode %v owner %d:%d", files["ping"].Mode(), st.Uid, st.Gid)
	}
	if files["d/below"] == nil {
		t.Error("a layer made a directory opaque by itself")
	}
	var found []string
	must(t, filepath.Walk(filepath.Join(w.dir, "snapshots"), func(p string, i os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if b := filepath.Base(p); b == "ping" || b == "d" {
			found = append(found, xattrs(t, p)...)
		}
		return nil
	}))
	sort.Strings(found)
	if diff := cmp.Diff([]string{"security.capability", "user.kept"}, found); diff != "" {
		t.Errorf("attributes: %s", diff)
	}
}

func xattrs(t *testing.T, p string) []string {
	t.Helper()
	b := make([]byte, 4096)
	n, err := unix.Llistxattr(p, b)
	must(t, err)
	return strings.FieldsFunc(string(b[:n]), func(r rune) bool { return r == 0 })
}

// zeros is a tar of one file of that many zero bytes, gzipped, without ever being whole in memory.
func zeros(t *testing.T, size int64, padding int64) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	must(t, err)
	w := tar.NewWriter(z)
	must(t, w.WriteHeader(&tar.Header{Name: "zeros", Size: size, Mode: 0o644}))
	_, err = io.CopyN(w, zeroReader{}, size)
	must(t, err)
	must(t, w.Close())
	_, err = io.CopyN(z, zeroReader{}, padding)
	must(t, err)
	must(t, z.Close())
	return b.Bytes()
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// sparse claims a file of 8 TB in a few bytes.
func sparse() []byte {
	h := make([]byte, 512)
	copy(h, "sparse")
	octal := func(at, n int, v int64) { copy(h[at:], fmt.Sprintf("%0*o", n-1, v)) }
	octal(100, 8, 0o644)
	octal(108, 8, 0)
	octal(116, 8, 0)
	octal(124, 12, 0)
	octal(136, 12, 0)
	h[156] = 'S'
	copy(h[257:], "ustar  \x00")
	size := int64(8) << 40
	// One empty fragment at the very end, then the real size, base 256.
	h[386] = 0x80
	h[398] = 0x80
	h[483] = 0x80
	for i := range 8 {
		h[386+11-i] = byte(size >> (8 * i))
		h[483+11-i] = byte(size >> (8 * i))
	}
	copy(h[148:], "        ")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return append(h, make([]byte, 1024)...)
}

// layerLie is a layer whose diff id nobody has computed: it must be stopped before that matters.
func layerLie(b []byte) v1.Layer { return static.NewLayer(b, types.OCILayer) }

func TestBombs(t *testing.T) {
	many := make([]entry, 300)
	for i := range many {
		many[i] = file(fmt.Sprintf("f%d", i), "")
	}
	long := make([]entry, 100)
	for i := range long {
		long[i] = dir(fmt.Sprintf("d%d", i) + strings.Repeat("/"+strings.Repeat("n", 200), 10))
	}
	for _, c := range []struct {
		name  string
		layer func(t *testing.T) v1.Layer
		limit func(*Limits)
		want  string
		is    error
	}{
		{"zeros in a file", func(t *testing.T) v1.Layer { return layerLie(zeros(t, 64<<20, 0)) },
			func(l *Limits) { l.BombFloor = 8 << 20 }, "decompression bomb", ErrBadImage},
		{"zeros after the end", func(t *testing.T) v1.Layer { return layerLie(zeros(t, 10, 64<<20)) },
			func(l *Limits) { l.BombFloor = 8 << 20 }, "decompression bomb", ErrBadImage},
		{"a sparse file", func(*testing.T) v1.Layer { return layerLie(sparse()) }, func(*Limits) {}, "decompression bomb", ErrBadImage},
		{"more than an image may unpack", func(t *testing.T) v1.Layer { return layerOf(t, file("big", noise(3<<20))) },
			func(l *Limits) { l.UnpackedBytes = 2 << 20 }, "says it has", ErrBadImage},
		{"more than an image may unpack, compressed", func(t *testing.T) v1.Layer { return layerOf(t, file("big", strings.Repeat("zero", 1<<20))) },
			func(l *Limits) { l.UnpackedBytes = 2 << 20 }, "unpacks to more than", ErrBadImage},
		{"too many files", func(t *testing.T) v1.Layer { return layerOf(t, many...) },
			func(l *Limits) { l.Entries = 200 }, "more than 200 entries", ErrBadImage},
		{"too much in headers", func(t *testing.T) v1.Layer { return layerOf(t, long...) },
			func(l *Limits) { l.NameBytes = 100_000 }, "names and attributes", ErrBadImage},
		{"no room for what is to be downloaded", func(t *testing.T) v1.Layer { return layerOf(t, file("big", noise(3<<20))) },
			func(l *Limits) { l.Reserve = 1 << 50 }, "the state disk is full", ErrDiskFull},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w, reg := newWorld(t, c.limit), newRegistry(t)
			w.registries = []config.Registry{reg.plain()}
			ref := reg.push(t, "x:1", imageOf(t, layerOf(t, file("first", "")), c.layer(t)))
			_, err := w.pull(w.ctx, ref)
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if s := w.left(t); s != "" {
				t.Errorf("left behind:\n%s", s)
			}
		})
	}
}

// TestFullDisk fills a small file system for real.
func TestFullDisk(t *testing.T) {
	w, reg := newWorld(t), newRegistry(t)
	w.registries = []config.Registry{reg.plain()}
	small := reg.push(t, "small:1", imageOf(t, layerOf(t, file("s", "s"))))
	// Compresses 10:1, so that it fits while it is downloaded and not when it is unpacked.
	big := reg.push(t, "big:1", imageOf(t, layerOf(t, file("b", strings.Repeat(noise(2<<10)+strings.Repeat("0", 18<<10), 3000)))))
	mnt := filepath.Join(w.dir, "snapshots")
	must(t, unix.Mount("tmpfs", mnt, "tmpfs", 0, "size=24m"))
	defer unmount(t, mnt)
	must(t, os.MkdirAll(filepath.Join(mnt, "snapshots"), 0o700))
	for _, c := range []struct{ name, root string }{{"seen coming", mnt}, {"not seen coming", w.dir}} {
		w.Root = c.root
		_, err := w.pull(w.ctx, big)
		if !errors.Is(err, ErrDiskFull) || strings.Count(err.Error(), "the state disk is full") != 1 {
			t.Errorf("%s: %v", c.name, err)
		}
		if s := w.left(t); s != "" {
			t.Errorf("%s: left behind:\n%s", c.name, s)
		}
		if _, err := w.pull(w.ctx, small); err != nil {
			t.Errorf("%s: next pull: %v", c.name, err)
		}
		_, err = w.Remove(w.ctx, small, false)
		must(t, err)
	}
}

func TestWrongDiffID(t *testing.T) {
	w, reg := newWorld(t), newRegistry(t)
	w.registries = []config.Registry{reg.plain()}
	ref := reg.push(t, "x:1", imageOf(t, layerLie(gzipped(t, tarOf(t, file("a", "a"))))))
	_, err := w.pull(w.ctx, ref)
	if !errors.Is(err, ErrBadImage) || !strings.Contains(err.Error(), "diff id") {
		t.Fatal(err)
	}
	if s := w.left(t); s != "" {
		t.Errorf("left behind:\n%s", s)
	}
}

func gzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, err := z.Write(b)
	must(t, err)
	must(t, z.Close())
	return out.Bytes()
}

func TestLocksAreForgotten(t *testing.T) {
	var l keyedLocks
	unlock, err := l.lock(t.Context(), "a")
	must(t, err)
	done := make(chan struct{})
	go func() {
		u, err := l.lock(t.Context(), "a")
		if err == nil {
			u()
		}
		close(done)
	}()
	time.Sleep(10 * time.Millisecond)
	unlock()
	<-done
	if len(l.held) != 0 {
		t.Error("locks held by nobody are kept")
	}
}
