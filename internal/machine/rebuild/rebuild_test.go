// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package rebuild

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"wherry.example/wherry/internal/format/choices"
	"wherry.example/wherry/internal/format/delta"
	"wherry.example/wherry/internal/libzstd"
)

var shim = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "wherry-rebuild-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "wherry-shim")
	cmd := exec.Command("go", "build", "-o", path, "wherry.example/wherry/cmd/wherry-shim")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build wherry-shim: %w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	if path, err := shim(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path)) // it is in the temporary folder
	}
	os.Exit(status)
}

// world is a running OS file, a new one, and the delta between them.
type world struct {
	dir            string
	old, data      []byte
	delta          []byte
	r              *Rebuilder
	running        string
	deltaFile, dst *os.File
	done, total    int64 // as it was told last
}

// zstd packs with a window that no machine has the memory for, as kernels are packed.
func zstd(t *testing.T, content []byte) []byte {
	t.Helper()
	cmd := exec.Command("zstd", "-q", "-c", "-3", "--long=27")
	cmd.Stdin = bytes.NewReader(content)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// memory is a file in memory.
type memory struct{ b []byte }

func (m *memory) ReadAt(b []byte, at int64) (int, error) { return bytes.NewReader(m.b).ReadAt(b, at) }

func (m *memory) WriteAt(b []byte, at int64) (int, error) {
	m.b = append(m.b, make([]byte, max(0, int(at)+len(b)-len(m.b)))...)
	return copy(m.b[at:], b), nil
}

// newWorld makes an OS file out of frames of content. The delta changes the last frame, and has
// a large one too, which is written by choices.
func newWorld(t *testing.T, mebibytes int) *world {
	t.Helper()
	program, err := shim()
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	large := make([]byte, mebibytes<<20)
	for i := 0; i < len(large); i += 32 {
		large[i] = byte(r.Uint32())
	}
	small := bytes.Repeat([]byte("what runs now "), 3000)
	changed := append(bytes.Clone(small), "and more"...)
	codec := libzstd.Codec{}
	p := delta.Parameters{Level: 22}
	a, err1 := codec.Pack(p, small)
	b, err2 := codec.Pack(p, changed)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	before, after := zstd(t, large), zstd(t, large[100:])
	w := &world{dir: t.TempDir(), old: slices.Concat(before, a), data: slices.Concat(after, b)}
	n, s := int64(len(large)), int64(len(small))
	controls := []delta.Control{{Seek: 100}, {Copy: n - 100}}
	past := delta.Past(controls)
	past.Old, past.New, past.OldBytes, past.NewBytes = bytes.NewReader(large), bytes.NewReader(large[100:]), n, n-100
	if past.Parse, err = choices.Unpack(t.Context(), bytes.NewReader(before), choices.Room{File: &memory{}, Bytes: n, Records: n}); err != nil {
		t.Fatal(err)
	}
	records := past.Parse.Records()
	told, err := choices.Encode(t.Context(), bytes.NewReader(after), past)
	if err != nil {
		t.Fatal(err)
	}
	made := s + n + choices.RecordBytes*records // where the objects begin
	recipe := &delta.Recipe{
		Unpack:  []delta.Piece{{Kind: delta.Frame, Offset: int64(len(before)), Bytes: int64(len(a)), Plain: s}, {Kind: delta.Large, Bytes: int64(len(before)), Plain: n, Records: records}},
		Objects: []delta.Object{{Bytes: s + 8, Old: delta.Range{Bytes: s}, Controls: 1}, {Bytes: n - 100, Old: delta.Range{Offset: s, Bytes: n}, Controls: 2}},
		Build: []delta.Step{{Kind: delta.Chosen, Range: delta.Range{Bytes: int64(len(after))}, Object: 1, Piece: 1, Choices: int64(len(told))},
			{Kind: delta.Packed, Range: delta.Range{Bytes: int64(len(b))}, Ranges: []delta.Range{{Offset: made, Bytes: s + 8}}, Parameters: p}},
	}
	streams := delta.Streams{Choices: told}
	err = errors.Join(streams.Add(delta.Prediction{}, []delta.Control{{Copy: s, Extra: 8}}, small, changed),
		streams.Add(delta.Prediction{}, controls, large, large[100:]))
	h := delta.Header{Old: describe(w.old), New: describe(w.data), Scratch: made + s + 8 + n - 100, Codec: codec.Name()}
	d, err2 := delta.Encode(h, recipe, streams, delta.LZMA)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	w.delta = d
	w.open(t, program)
	return w
}

func describe(b []byte) delta.File { return delta.File{Bytes: int64(len(b)), SHA256: sha256.Sum256(b)} }

func (w *world) open(t *testing.T, program string) {
	t.Helper()
	w.running = filepath.Join(w.dir, "wherry.efi")
	if err := errors.Join(os.WriteFile(w.running, w.old, 0o600), os.WriteFile(filepath.Join(w.dir, "delta"), w.delta, 0o600)); err != nil {
		t.Fatal(err)
	}
	var err1, err2 error
	w.deltaFile, err1 = os.Open(filepath.Join(w.dir, "delta"))
	w.dst, err2 = os.Create(filepath.Join(w.dir, "new"))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.deltaFile.Close(); w.dst.Close() })
	w.r = New(Options{Log: slog.New(slog.DiscardHandler), Dir: filepath.Join(w.dir, "rebuild"), Program: program, NoGroup: true})
}

func (w *world) rebuild(ctx context.Context) error {
	return w.r.Rebuild(ctx, func(use func(*os.File) error) error {
		f, err := os.Open(w.running)
		if err != nil {
			return err
		}
		defer f.Close()
		return use(f)
	}, w.deltaFile, w.dst, func(done, total int64) { w.done, w.total = done, total })
}

// check wants the new file, and nothing left behind.
func (w *world) check(t *testing.T) {
	t.Helper()
	got, err := os.ReadFile(w.dst.Name())
	if err != nil || !bytes.Equal(got, w.data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := os.Stat(w.r.o.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
}

func TestRebuild(t *testing.T) {
	w := newWorld(t, 1)
	if err := w.rebuild(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.check(t)
	if least := int64(len(w.old) + len(w.data)); w.done != w.total || w.total <= least {
		t.Errorf("at the end %d of %d bytes were done, and the two files alone have %d", w.done, w.total, least)
	}
}

// TestCut ends the work at many instants, and begins it again with what was left.
func TestCut(t *testing.T) {
	w := newWorld(t, 8)
	cut := 0
	for i := range 12 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*15*time.Millisecond)
		if err := w.rebuild(ctx); errors.Is(err, context.DeadlineExceeded) {
			cut++
		} else if err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := errors.Join(os.MkdirAll(w.r.o.Dir, 0o700), os.WriteFile(filepath.Join(w.r.o.Dir, "plain"), make([]byte, 99), 0o600)); err != nil {
			t.Fatal(err) // as a power cut would leave it
		}
	}
	if err := w.rebuild(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.check(t)
	if cut == 0 {
		t.Error("nothing was cut")
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(*testing.T, *world)
		want string
	}{
		"another running file": {func(t *testing.T, w *world) { write(t, w.running, append(w.old[:len(w.old)-1], 0)) }, "another old file"},
		"no running file":      {func(t *testing.T, w *world) { w.running += ".gone" }, "copy the running OS file"},
		"a damaged delta": {func(t *testing.T, w *world) {
			write(t, w.deltaFile.Name(), append(w.delta[:len(w.delta)-9], "damaged!!"...))
		}, "delta"},
		"no delta":             {func(t *testing.T, w *world) { write(t, w.deltaFile.Name(), []byte("something else")) }, "not a delta"},
		"no room":              {func(_ *testing.T, w *world) { w.r.o.Free = func(string) (int64, error) { return 1 << 20, nil } }, "1 MB are free"},
		"no program":           {func(_ *testing.T, w *world) { w.r.o.Program = "/nowhere" }, "nowhere"},
		"a program that fails": {func(_ *testing.T, w *world) { w.r.o.Program = "/bin/false" }, "exit status 1"},
	} {
		w := newWorld(t, 1)
		c.do(t, w)
		if err := w.rebuild(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(w.r.o.Dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the folder is still there", name)
		}
	}
}

func write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestNewRemovesWhatWasLeft(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "rebuild")
	if err := os.MkdirAll(filepath.Join(dir, "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	New(Options{Log: slog.New(slog.DiscardHandler), Dir: dir})
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Error("it is still there")
	}
}

// TestMemory lets the kernel hold the child, page cache and all, to what it may have:
// with a frame of 60 MB of content and two million matches, more than which no OS file's parts are.
func TestMemory(t *testing.T) {
	dir := boundedGroup(t)
	w := newWorld(t, 60)
	// A shell enters the group and becomes the child: Program is one path, and this host's groups are of version 1.
	script := filepath.Join(w.dir, "in-group")
	write(t, script, fmt.Appendf(nil, "#!/bin/sh\necho $$ >%s/cgroup.procs && exec %s \"$@\"\n", dir, w.r.o.Program))
	if err := os.Chmod(script, 0o700); err != nil {
		t.Fatal(err)
	}
	w.r.o.Program = script
	if err := w.rebuild(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.check(t)
}

// boundedGroup makes a control group with Memory bytes, in either version.
func boundedGroup(t *testing.T) string {
	t.Helper()
	for parent, limit := range map[string]string{"/sys/fs/cgroup/memory": "memory.limit_in_bytes", "/sys/fs/cgroup": "memory.max"} {
		dir := filepath.Join(parent, "wherry-rebuild-test-"+strconv.Itoa(os.Getpid()))
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() { _ = os.Remove(dir) }) // a group that is empty goes at once
		if os.WriteFile(filepath.Join(dir, limit), []byte(strconv.Itoa(Memory)), 0) == nil {
			return dir
		}
	}
	t.Skip("this user cannot make control groups with a bound on memory")
	return ""
}
