// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/release"
)

var start = release.Epoch.Add(100 * 24 * time.Hour)

// fixture is a repository with keys and a clock that a test moves.
type fixture struct {
	t    *testing.T
	dir  string
	keys Keys
	now  time.Time
	root []byte
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	dir := t.TempDir()
	f := &fixture{t: t, dir: filepath.Join(dir, "repo"), now: start, keys: Keys{Dir: filepath.Join(dir, "keys"), RootFiles: []string{filepath.Join(dir, "root.pem")}}}
	for _, role := range []string{"root", "targets", "snapshot", "timestamp"} {
		if _, err := f.keys.New(role, f.keys.RootFiles[0]); err != nil {
			t.Fatal(err)
		}
	}
	f.check(Init(t.Context(), f.dir, f.keys, 1, f.clock))
	var err error
	f.root, err = os.ReadFile(filepath.Join(f.dir, "metadata", "1.root.json"))
	f.check(err)
	return f
}

func (f *fixture) clock() time.Time { return f.now }

func (f *fixture) check(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// open opens the repository for one change.
func (f *fixture) with(do func(ctx context.Context, r *Repository) error) error {
	f.t.Helper()
	r, err := Open(f.dir, f.clock)
	f.check(err)
	defer r.Close()
	return do(f.t.Context(), r)
}

// image is a build folder.
func (f *fixture) image(version, content string) string {
	f.t.Helper()
	dir := f.t.TempDir()
	f.check(os.WriteFile(filepath.Join(dir, "kernel"), []byte("kernel "+content), 0o644))
	f.check(os.WriteFile(filepath.Join(dir, "root.squashfs"), []byte("root "+content), 0o644))
	var parts []string
	for _, name := range []string{"kernel", "root.squashfs"} {
		p, err := release.MeasurePart(filepath.Join(dir, name))
		f.check(err)
		parts = append(parts, fmt.Sprintf(`{"name":%q,"bytes":%d,"sha256":%q}`, p.Name, p.Bytes, p.SHA256))
	}
	manifest := fmt.Sprintf(`{"version":%q,"edition":"core","arch":"amd64","kernel":{},"trust":{"rootVersion":1,"sha256":"%x"},"parts":[%s]}`,
		version, sha256.Sum256(f.root), strings.Join(parts, ","))
	f.check(os.WriteFile(filepath.Join(dir, "manifest.json"), []byte(manifest), 0o644))
	return dir
}

var all = release.Rollout{Percent: 100}

func (f *fixture) publish(version string) error {
	f.t.Helper()
	images, err := ReadImages([]string{f.image(version, version)}, release.Manifest{})
	f.check(err)
	return f.with(func(ctx context.Context, r *Repository) error { return r.Publish(ctx, f.keys, images, all) })
}

// read is what a machine reads that knows the first root and remembers.
func (f *fixture) read(store release.Store) (*release.Repository, error) {
	return release.Refresh(f.t.Context(), release.Config{Root: f.root, Source: release.Dir(f.dir), Store: store, Now: f.clock})
}

type memory map[string][]byte

func (m memory) Load(name string) ([]byte, error) {
	if data, ok := m[name]; ok {
		return data, nil
	}
	return nil, fs.ErrNotExist
}

func (m memory) Save(name string, data []byte) error {
	m[name] = data
	return nil
}

func (f *fixture) version(s string) release.Version {
	v, err := release.ParseVersion(s)
	f.check(err)
	return v
}

// A release goes through the channels; machines follow, and leave it alone when it is withdrawn.
func TestLifeOfARelease(t *testing.T) {
	f := newFixture(t)
	v1, v2 := f.version("12.0.0"), f.version("12.1.0")
	f.check(f.publish("12.0.0"))
	f.check(f.publish("12.1.0"))
	store := memory{}
	sees := func(channel release.Channel, want string) {
		t.Helper()
		r, err := f.read(store)
		f.check(err)
		got, found, why := release.Choose(r.Releases, release.Machine{ID: "m", Edition: "core", Arch: "amd64", Channel: channel}, f.now)
		if found != (want != "") || found && got.Version.String() != want {
			t.Errorf("%s: %v %q, want %q", channel, got.Version, why, want)
		}
	}
	sees(release.Alpha, "12.1.0")
	sees(release.Beta, "")
	promote := func(v release.Version, to release.Channel, r release.Rollout) error {
		return f.with(func(ctx context.Context, repo *Repository) error { return repo.Promote(ctx, f.keys, v, to, r) })
	}
	f.check(promote(v1, release.Beta, all))
	sees(release.Beta, "12.0.0")
	if err := promote(v2, release.Stable, all); err == nil {
		t.Error("promoted past beta")
	}
	if err := promote(v1, release.Beta, all); err == nil {
		t.Error("promoted twice")
	}
	f.check(promote(v1, release.Stable, release.Rollout{Percent: release.Place("m", v1)}))
	sees(release.Stable, "")
	f.check(f.with(func(ctx context.Context, r *Repository) error {
		return r.Rollout(ctx, f.keys, v1, release.Stable, release.Rollout{Percent: release.Place("m", v1) + 1})
	}))
	sees(release.Stable, "12.0.0")
	withdraw := func() error {
		return f.with(func(ctx context.Context, r *Repository) error { return r.Withdraw(ctx, f.keys, v1, "bad") })
	}
	f.check(withdraw())
	sees(release.Stable, "")
	remove := func(v release.Version) error {
		return f.with(func(ctx context.Context, r *Repository) error { return r.Remove(ctx, f.keys, v) })
	}
	if remove(v2) == nil {
		t.Error("a release was removed that machines may be taking")
	}
	defer func() {
		f.check(remove(v1))
		if r, err := f.read(store); err != nil || len(r.Releases) != 1 || r.Releases[0].Version != v2 {
			t.Errorf("after removing: %v", err)
		}
		if _, err := os.Stat(filepath.Join(f.dir, "targets/releases/12.0.0")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("its files are there: %v", err)
		}
	}()
	if withdraw() == nil || promote(v1, release.Stable, all) == nil {
		t.Error("a withdrawn release was changed")
	}
}

func TestPublishRefuses(t *testing.T) {
	f := newFixture(t)
	f.check(f.publish("12.0.0"))
	f.check(f.publish("12.0.0")) // the same: nothing to do
	publish := func(dir string) error {
		images, err := ReadImages([]string{dir}, release.Manifest{})
		if err != nil {
			return err
		}
		return f.with(func(ctx context.Context, r *Repository) error { return r.Publish(ctx, f.keys, images, all) })
	}
	if err := publish(f.image("12.0.0", "other")); err == nil || !strings.Contains(err.Error(), "never changes") {
		t.Errorf("another content under a version: %v", err)
	}
	tampered := f.image("12.1.0", "x")
	f.check(os.WriteFile(filepath.Join(tampered, "kernel"), []byte("kernel y"), 0o644))
	if err := publish(tampered); err == nil || !strings.Contains(err.Error(), "build again") {
		t.Errorf("a part that is not the manifest's: %v", err)
	}
	if err := publish(t.TempDir()); err == nil {
		t.Error("an empty folder was published")
	}
	r, err := f.read(nil)
	f.check(err)
	if len(r.Releases) != 1 {
		t.Errorf("%d releases", len(r.Releases))
	}
}

func TestFilesBesideAFolder(t *testing.T) {
	f := newFixture(t)
	disk := filepath.Join(t.TempDir(), "wherry.raw")
	f.check(os.WriteFile(disk, []byte("disk"), 0o644))
	images, err := ReadImages([]string{f.image("12.0.0", "x"), disk}, release.Manifest{})
	f.check(err)
	f.check(f.with(func(ctx context.Context, r *Repository) error { return r.Publish(ctx, f.keys, images, all) }))
	r, err := f.read(nil)
	f.check(err)
	m, err := r.Manifest(t.Context(), r.Releases[0])
	if err != nil || len(m.Parts) != 3 {
		t.Errorf("%+v %v", m, err)
	}
	alone, err := ReadImages([]string{disk}, release.Manifest{Version: f.version("13.0.0"), Edition: "core", Arch: "arm64"})
	f.check(err)
	f.check(f.with(func(ctx context.Context, r *Repository) error { return r.Publish(ctx, f.keys, alone, all) }))
	if _, err := ReadImages([]string{disk}, release.Manifest{}); err == nil {
		t.Error("a file without a release was taken")
	}
}

// errPower is a process that ends before a write.
var errPower = errors.New("power cut")

// Whatever write is the last one, a reader sees the state of before or after, whole,
// and doing it again ends right.
func TestCutAtEveryWrite(t *testing.T) {
	for name, change := range map[string]func(*fixture) func(context.Context, *Repository) error{
		"publish": func(f *fixture) func(context.Context, *Repository) error {
			images, err := ReadImages([]string{f.image("12.1.0", "new")}, release.Manifest{})
			f.check(err)
			return func(ctx context.Context, r *Repository) error { return r.Publish(ctx, f.keys, images, all) }
		},
		"promote": func(f *fixture) func(context.Context, *Repository) error {
			return func(ctx context.Context, r *Repository) error {
				return r.Promote(ctx, f.keys, f.version("12.0.0"), release.Beta, all)
			}
		},
		"rotate targets": func(f *fixture) func(context.Context, *Repository) error {
			return func(ctx context.Context, r *Repository) error { _, err := r.Rotate(ctx, "targets", f.keys); return err }
		},
		"rotate timestamp": func(f *fixture) func(context.Context, *Repository) error {
			return func(ctx context.Context, r *Repository) error {
				_, err := r.Rotate(ctx, "timestamp", f.keys)
				return err
			}
		},
	} {
		t.Run(name, func(t *testing.T) { testCuts(t, change) })
	}
}

// neverChanges wants all metadata that was there before as it was, also what
// was written in vain: a mirror or a cache may have it.
func (f *fixture) neverChanges(written map[string]string) {
	f.t.Helper()
	files, err := filepath.Glob(filepath.Join(f.dir, "metadata", "[0-9]*.json"))
	f.check(err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		f.check(err)
		if before, known := written[file]; known && before != string(data) {
			f.t.Errorf("%s was written again", filepath.Base(file))
		}
		written[file] = string(data)
	}
}

func testCuts(t *testing.T, change func(*fixture) func(context.Context, *Repository) error) {
	f := newFixture(t)
	f.check(f.publish("12.0.0"))
	store := memory{}
	do, cuts, written := change(f), 0, map[string]string{}
	for after := 0; ; after++ {
		err := f.with(func(ctx context.Context, r *Repository) error {
			left, write := after, r.write
			r.write = func(path string, data []byte) error {
				if left--; left < 0 {
					return errPower
				}
				return write(path, data)
			}
			return do(ctx, r)
		})
		f.neverChanges(written)
		read, rerr := f.read(store)
		if rerr != nil {
			t.Fatalf("cut after %d writes: %v", after, rerr)
		}
		if _, rerr = f.read(nil); rerr != nil {
			t.Fatalf("cut after %d writes, a new machine: %v", after, rerr)
		}
		if read.Releases[len(read.Releases)-1].Version != f.version("12.0.0") {
			t.Fatalf("cut after %d writes: the first release is gone", after)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, errPower) {
			t.Fatalf("cut after %d writes: %v", after, err)
		}
		cuts++
	}
	if cuts < 3 {
		t.Errorf("only %d cuts were made", cuts)
	}
	f.check(f.publish("12.2.0"))
	if r, err := f.read(store); err != nil || r.Releases[0].Version != f.version("12.2.0") {
		t.Errorf("after all: %v", err)
	}
}

// A machine that knows the first root follows rotations of all keys, and
// refreshes keep the repository fresh, over a year and more.
func TestYears(t *testing.T) {
	f := newFixture(t)
	f.check(f.publish("12.0.0"))
	off := memory{}
	_, err := f.read(off)
	f.check(err)
	for month := range 30 {
		f.now = f.now.Add(30 * 24 * time.Hour)
		if _, err := f.read(nil); !errors.Is(err, release.ErrExpired) {
			t.Fatalf("month %d: not refreshed, and yet: %v", month, err)
		}
		role := []string{"targets", "snapshot", "timestamp", "root"}[month%4]
		f.check(f.with(func(ctx context.Context, r *Repository) error {
			if role != "root" {
				_, err := r.Rotate(ctx, role, f.keys)
				return err
			}
			file := filepath.Join(t.TempDir(), "next.pem")
			k, err := f.keys.New("root", file)
			f.check(err)
			f.check(r.RotateRoot(f.keys, []Key{k}))
			f.keys.RootFiles = []string{file}
			return r.Refresh(ctx, f.keys)
		}))
	}
	for name, store := range map[string]memory{"off": off, "new": {}} {
		r, err := f.read(store)
		if err != nil || r.Root < 30 {
			t.Errorf("%s: %+v %v", name, r, err)
		}
	}
}

func TestKeysMustBeRight(t *testing.T) {
	f := newFixture(t)
	other := newFixture(t)
	err := f.with(func(ctx context.Context, r *Repository) error { return r.Refresh(ctx, other.keys) })
	if err == nil || !strings.Contains(err.Error(), "not the right ones") {
		t.Errorf("another's keys: %v", err)
	}
	if _, err := f.keys.New("root", f.keys.RootFiles[0]); err == nil {
		t.Error("a key was replaced")
	}
	if err := Init(t.Context(), f.dir, f.keys, 1, f.clock); err == nil {
		t.Error("a repository was made twice")
	}
	if err := Init(t.Context(), t.TempDir(), f.keys, 2, f.clock); err == nil {
		t.Error("a threshold above the number of keys")
	}
}

// What somebody else wrote into the folder is not built on.
func TestTamperedFolder(t *testing.T) {
	f := newFixture(t)
	file := filepath.Join(f.dir, "metadata", "1.targets.json")
	data, err := os.ReadFile(file)
	f.check(err)
	f.check(os.WriteFile(file, []byte(strings.Replace(string(data), `"targets":{}`, `"targets":{"releases/1.0.0/core-amd64/x":{"length":1,"hashes":{}}}`, 1)), 0o644))
	if r, err := Open(f.dir, f.clock); err == nil {
		r.Close()
		t.Error("it was opened")
	}
}

func TestLock(t *testing.T) {
	f := newFixture(t)
	r, err := Open(f.dir, f.clock)
	f.check(err)
	time.AfterFunc(300*time.Millisecond, func() { r.Close() })
	began := time.Now()
	second, err := Open(f.dir, f.clock)
	f.check(err)
	second.Close()
	if time.Since(began) < 250*time.Millisecond {
		t.Error("two worked on it at once")
	}
}

// What machines would refuse is not put in place.
func TestRehearsal(t *testing.T) {
	f := newFixture(t)
	f.check(f.publish("12.0.0"))
	err := f.with(func(ctx context.Context, r *Repository) error {
		for i := range 20_000 {
			p := release.Part{Name: fmt.Sprintf("part%d", i), SHA256: strings.Repeat("0", 64)}
			r.addTarget("releases/12.0.0/core-amd64", p)
		}
		return r.commit(ctx, f.keys, true)
	})
	if !errors.Is(err, release.ErrTooLarge) {
		t.Errorf("more targets than machines read: %v", err)
	}
	r, err := f.read(nil)
	if err != nil || len(r.Releases[0].Files) != 2 {
		t.Errorf("the state of before: %v", err)
	}
}
