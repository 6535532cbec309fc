// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"wherry.example/wherry/internal/host/differ"
	"wherry.example/wherry/release"
)

// osImage is a build folder with an OS file.
func (f *fixture) osImage(version string) []Image {
	f.t.Helper()
	dir := f.image(version, version)
	file := filepath.Join(f.t.TempDir(), release.OSFile)
	f.check(os.WriteFile(file, []byte(strings.Repeat("OS "+version, 100)), 0o644))
	images, err := ReadImages([]string{dir, file}, release.Manifest{})
	f.check(err)
	return images
}

// TestRootRoleIsAsked: an OS file that trusts nobody, or somebody else, is not published by mistake.
func TestRootRoleIsAsked(t *testing.T) {
	f := newFixture(t)
	for name, tt := range map[string]struct {
		trust *release.Trust
		want  string
	}{
		"none":     {nil, "carries no root role"},
		"another":  {&release.Trust{RootVersion: 1, SHA256: strings.Repeat("ab", 32)}, "root role of another repository"},
		"a future": {&release.Trust{RootVersion: 7, SHA256: strings.Repeat("ab", 32)}, "root role of another repository"},
	} {
		images := f.osImage("100.0.0")
		images[0].Manifest.Trust = tt.trust
		publish := func(ctx context.Context, r *Repository) error { return r.Publish(ctx, f.keys, images, all) }
		if err := f.with(publish); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	images := f.osImage("100.0.0")
	images[0].Manifest.Trust = nil
	f.check(f.with(func(ctx context.Context, r *Repository) error {
		r.AnyRoot = true
		return r.Publish(ctx, f.keys, images, all)
	}))
}

// TestDeltaSources: which older releases get a delta, through publishing, signing and reading.
func TestDeltaSources(t *testing.T) {
	f := newFixture(t)
	var told []string
	publish := func(version string, newest int, create func(old, data []byte) ([]byte, error)) release.Release {
		t.Helper()
		var found release.Release
		f.check(f.with(func(ctx context.Context, r *Repository) error {
			r.Deltas = Deltas{Newest: newest, Progress: func(s string) { told = append(told, s) },
				Make: func(_ context.Context, old, data []byte, _ func(string)) ([]byte, differ.Verdict, error) {
					made, err := create(old, data)
					return made, differ.Verdict{}, err
				}}
			if err := r.Publish(ctx, f.keys, f.osImage(version), release.Rollout{Percent: 100}); err != nil {
				return err
			}
			all, err := r.Releases(ctx)
			found = all[0]
			return err
		}))
		return found
	}
	small := func(old, data []byte) ([]byte, error) { return append(old[3:9:9], data[3:9]...), nil }
	froms := func(r release.Release) (out []string) {
		for _, d := range r.Deltas {
			got, ok := r.Delta(release.OSFile, d.From)
			if !ok || got != d {
				t.Errorf("%v is not found", d)
			}
			out = append(out, d.From.String())
		}
		slices.Sort(out)
		return out
	}
	want := func(r release.Release, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, froms(r)); diff != "" {
			t.Errorf("%s: %s", r.Version, diff)
		}
	}
	want(publish("1.0.0", 3, small))
	f.check(f.with(func(ctx context.Context, r *Repository) error {
		v, _ := release.ParseVersion("1.0.0")
		return r.Promote(ctx, f.keys, v, release.Beta, release.Rollout{Percent: 100})
	}))
	want(publish("1.1.0", 3, small), "1.0.0")
	want(publish("1.2.0", 0, small))
	r := publish("1.3.0", 1, small)
	want(r, "1.0.0", "1.2.0") // the newest, and beta's
	data, err := os.ReadFile(filepath.Join(f.dir, filepath.FromSlash(r.Deltas[1].Location())))
	if err != nil || len(data) != 12 {
		t.Errorf("the file has %q, %v", data, err)
	}

	told = nil
	want(publish("1.4.0", 1, func(_, data []byte) ([]byte, error) { return data[:len(data)*worth/100], nil }))
	want(publish("1.5.0", 1, func(_, _ []byte) ([]byte, error) { return nil, errors.New("the delta does not give the new file") }))
	if text := strings.Join(told, "\n"); !strings.Contains(text, "percent of the whole") || !strings.Contains(text, "1.5.0 has no delta from 1.4.0: the delta does not") {
		t.Errorf("told was %q", told)
	}
}

// TestDeltaOfADamagedRelease: what lies in the repository is checked before it is compared.
func TestDeltaOfADamagedRelease(t *testing.T) {
	f := newFixture(t)
	var told string
	f.check(f.with(func(ctx context.Context, r *Repository) error {
		if err := r.Publish(ctx, f.keys, f.osImage("1.0.0"), release.Rollout{Percent: 100}); err != nil {
			return err
		}
		all, err := r.Releases(ctx)
		f.check(err)
		file, _ := all[0].File(release.OSFile)
		f.check(os.WriteFile(filepath.Join(f.dir, filepath.FromSlash(file.Location())), []byte("damaged"), 0o644))
		r.Deltas = Deltas{Newest: 1, Progress: func(s string) { told += s }, Make: func(context.Context, []byte, []byte, func(string)) ([]byte, differ.Verdict, error) {
			t.Error("it was compared")
			return nil, differ.Verdict{}, nil
		}}
		return r.Publish(ctx, f.keys, f.osImage("1.1.0"), release.Rollout{Percent: 100})
	}))
	if !strings.Contains(told, release.ErrMismatch.Error()) {
		t.Errorf("told was %q", told)
	}
}

func TestSize(t *testing.T) {
	for bytes, want := range map[int64]string{0: "0.00 KB", 812: "0.81 KB", 16_800: "16.80 KB", 99_999: "100.00 KB", 100_000: "0.10 MB", 26_740_000: "26.74 MB"} {
		if got := Size(bytes); got != want {
			t.Errorf("%d: %s, want %s", bytes, got, want)
		}
	}
}
