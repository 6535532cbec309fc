// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"wherry.example/wherry/api/wherryv1"
)

var ctx = context.Background()

func open(t *testing.T, dir string, users func() map[string][]string) *Volumes {
	t.Helper()
	v, err := Open(Options{Dir: dir, Users: users, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func names(t *testing.T, v *Volumes) []string {
	t.Helper()
	list, err := v.ListVolumes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, volume := range list {
		out = append(out, volume.Name)
	}
	return out
}

func TestVolumesOutliveTheirKeeper(t *testing.T) {
	dir := t.TempDir()
	v := open(t, dir, nil)
	made, err := v.CreateVolume(ctx, &wherryv1.CreateVolumeRequest{Name: "db", Labels: map[string]string{"a": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	data, err := v.Ensure(ctx, "db", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "rows"), make([]byte, 100<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	v = open(t, dir, func() map[string][]string { return map[string][]string{"db": {"web"}} })
	got, err := v.InspectVolume(ctx, "db")
	if err != nil {
		t.Fatal(err)
	}
	if got.Labels["a"] != "b" || !got.CreatedAt.AsTime().Equal(made.CreatedAt.AsTime()) || got.UsedBytes < 100<<10 || got.Containers[0] != "web" {
		t.Errorf("%v", got)
	}
}

func TestCreate(t *testing.T) {
	v := open(t, t.TempDir(), nil)
	anonymous, err := v.CreateVolume(ctx, &wherryv1.CreateVolumeRequest{})
	if err != nil || !anonymous.Anonymous || len(anonymous.Name) != 64 {
		t.Fatal(anonymous, err)
	}
	label := map[string]string{"a": "b"}
	if _, err := v.CreateVolume(ctx, &wherryv1.CreateVolumeRequest{Name: "db", Labels: label}); err != nil {
		t.Fatal(err)
	}
	many := map[string]string{}
	for i := range maxLabels + 1 {
		many[strings.Repeat("x", i+1)] = ""
	}
	for what, c := range map[string]struct {
		request *wherryv1.CreateVolumeRequest
		is      func(error) bool
	}{
		"again":            {&wherryv1.CreateVolumeRequest{Name: "db"}, nil},
		"again, the same":  {&wherryv1.CreateVolumeRequest{Name: "db", Labels: label}, nil},
		"again, otherwise": {&wherryv1.CreateVolumeRequest{Name: "db", Labels: map[string]string{"a": "c"}}, errdefs.IsAlreadyExists},
		"dots":             {&wherryv1.CreateVolumeRequest{Name: ".."}, errdefs.IsInvalidArgument},
		"a slash":          {&wherryv1.CreateVolumeRequest{Name: "a/b"}, errdefs.IsInvalidArgument},
		"hidden":           {&wherryv1.CreateVolumeRequest{Name: ".new-1"}, errdefs.IsInvalidArgument},
		"one letter":       {&wherryv1.CreateVolumeRequest{Name: "a"}, errdefs.IsInvalidArgument},
		"a newline":        {&wherryv1.CreateVolumeRequest{Name: "ab\n"}, errdefs.IsInvalidArgument},
		"very long":        {&wherryv1.CreateVolumeRequest{Name: strings.Repeat("a", 1<<20)}, errdefs.IsInvalidArgument},
		"many labels":      {&wherryv1.CreateVolumeRequest{Name: "l1", Labels: many}, errdefs.IsInvalidArgument},
		"a long label":     {&wherryv1.CreateVolumeRequest{Name: "l2", Labels: map[string]string{"k": strings.Repeat("v", maxLabelBytes)}}, errdefs.IsInvalidArgument},
		"a limit in vain":  {&wherryv1.CreateVolumeRequest{Name: "l3", LimitBytes: 1 << 30}, errdefs.IsFailedPrecondition},
	} {
		_, err := v.CreateVolume(ctx, c.request)
		if c.is == nil && err != nil || c.is != nil && !c.is(err) {
			t.Errorf("%s: %v", what, err)
		}
		if err != nil && len(err.Error()) > 1000 {
			t.Errorf("%s: an error of %d bytes", what, len(err.Error()))
		}
	}
	if got := names(t, v); len(got) != 2 {
		t.Errorf("refused requests left volumes: %v", got)
	}
	hidden, err := filepath.Glob(filepath.Join(v.options.Dir, ".[gn]*"))
	if err != nil || len(hidden) > 0 {
		t.Errorf("refused requests left files: %v, %v", hidden, err)
	}
}

func TestRemoveAndPrune(t *testing.T) {
	users := map[string][]string{"used": {"web", "db"}}
	v := open(t, t.TempDir(), func() map[string][]string { return users })
	for name, anonymous := range map[string]bool{"used": true, "anonymous": true, "named": false, "plain": false} {
		if _, err := v.Ensure(ctx, name, anonymous); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.RemoveVolume(ctx, "used", true); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "web, db") {
		t.Errorf("a volume in use: %v", err)
	}
	if err := v.RemoveVolume(ctx, "plain", false); err != nil {
		t.Error(err)
	}
	if err := v.RemoveVolume(ctx, "plain", false); !errdefs.IsNotFound(err) {
		t.Errorf("a volume that is gone: %v", err)
	}
	if err := v.RemoveVolume(ctx, "plain", true); err != nil {
		t.Errorf("a volume that is gone, by force: %v", err)
	}
	if _, err := v.PruneVolumes(ctx, false); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"named", "used"}, names(t, v)); diff != "" {
		t.Error(diff)
	}
	got, err := v.PruneVolumes(ctx, true)
	if err != nil || len(got.Removed) != 1 || got.Removed[0] != "named" {
		t.Errorf("%v, %v", got, err)
	}
	if err := v.Remove(ctx, "used"); err != nil {
		t.Errorf("the engine's own call: %v", err)
	}
	entries, err := os.ReadDir(v.options.Dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// What a power cut left is cleared away; what is not Wherry's stays unlisted.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{".new-123/data", ".gone-abc/data", "lost/data"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "lost", "volume.json"), []byte("{torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	v := &Volumes{options: Options{Dir: dir, Log: slog.New(slog.DiscardHandler)}}
	v.purge([]string{filepath.Join(dir, ".new-123"), filepath.Join(dir, ".gone-abc")})
	v = open(t, dir, nil)
	if diff := cmp.Diff([]string{"lost"}, names(t, v)); diff != "" {
		t.Error(diff)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestConcurrentCalls(t *testing.T) {
	v := open(t, t.TempDir(), nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if _, err := v.Ensure(ctx, "shared", false); err != nil {
					t.Error(err)
				}
				if err := v.Remove(ctx, "shared"); err != nil {
					t.Error(err)
				}
				if _, err := v.ListVolumes(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// A name that is taken by files of nobody's is an error, and not a volume that is not there.
func TestCreateInTheWay(t *testing.T) {
	dir := t.TempDir()
	v := open(t, dir, nil)
	if err := os.MkdirAll(filepath.Join(dir, "db", "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := v.CreateVolume(ctx, &wherryv1.CreateVolumeRequest{Name: "db"}); err == nil {
		t.Error("a volume was made where something is in the way")
	}
	if got := names(t, v); len(got) != 0 {
		t.Errorf("there are volumes: %v", got)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".new-*")); len(left) != 0 {
		t.Errorf("left over: %v", left)
	}
}
