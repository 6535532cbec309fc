// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/release"
)

// A machine that was off while every key was replaced, some twice, and
// every root that it would have seen has expired, finds its way to today. One
// who has the old keys cannot lead it elsewhere.
func TestRotationWhileOff(t *testing.T) {
	p := newProject(t)
	store := memory{}
	if _, err := p.refresh(store); err != nil {
		t.Fatal(err)
	}
	stolen := p.keys["timestamp"]
	for _, role := range []string{"timestamp", "root", "snapshot", "targets", "root", "timestamp"} {
		p.now = p.now.Add(70 * day) // 420 days in all: the first root has expired
		p.rotate(role)
	}
	p.publish("400.0.0", map[string]string{"kernel": "new"})
	for name, s := range map[string]memory{"off": store, "new": {}} {
		r, err := release.Refresh(t.Context(), p.config(p.serve(nil), s))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if r.Root != 7 || r.Releases[0].Version.String() != "400.0.0" {
			t.Errorf("%s: root %d, %v", name, r.Root, r.Releases[0].Version)
		}
		if len(s["7.root.json"]) == 0 {
			t.Errorf("%s: the chain is not remembered", name)
		}
	}
	p.keys["timestamp"] = stolen
	p.commitTimestamp()
	if _, err := p.refresh(store); !errors.Is(err, release.ErrSignature) {
		t.Errorf("the stolen key still counts: %v", err)
	}
}

// What was remembered is checked like everything else, and asked for again
// when it is damaged.
func TestDamagedMemory(t *testing.T) {
	p := newProject(t)
	p.rotate("timestamp")
	store := memory{}
	if _, err := p.refresh(store); err != nil {
		t.Fatal(err)
	}
	if len(store) != 5 {
		t.Fatalf("%d files are remembered", len(store))
	}
	for name := range store {
		for _, junk := range []string{"", "{}", "null", `{"signed":null}`, string(store[name][:len(store[name])/2])} {
			damaged := memory{}
			for k, v := range store {
				damaged[k] = v
			}
			damaged[name] = []byte(junk)
			if _, err := p.refresh(damaged); err != nil {
				t.Errorf("%s is %q: %v", name, junk, err)
			}
			if string(damaged[name]) != string(store[name]) {
				t.Errorf("%s is %q: it was not mended", name, junk)
			}
		}
	}
}

// A stick may be older than the timestamp lasts, but not older than what the
// machine has seen, nor than the signature of the releases.
func TestCarried(t *testing.T) {
	p := newProject(t)
	c := p.config(release.Dir(p.dir), memory{})
	p.now = p.now.Add(60 * day)
	if _, err := release.Refresh(t.Context(), c); !errors.Is(err, release.ErrExpired) {
		t.Errorf("not carried: %v", err)
	}
	c.Carried = true
	r, err := release.Refresh(t.Context(), c)
	if err != nil || len(r.Releases) != 1 {
		t.Fatalf("carried: %v", err)
	}
	if _, err := release.Refresh(t.Context(), c); err != nil {
		t.Errorf("carried twice: %v", err)
	}
	old := p.get("metadata/timestamp.json")
	p.publish("100.0.0", map[string]string{"kernel": "new"})
	if _, err := release.Refresh(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	p.put("metadata/timestamp.json", old)
	if _, err := release.Refresh(t.Context(), c); !errors.Is(err, release.ErrRollback) || !strings.Contains(err.Error(), "wherry release bundle") {
		t.Errorf("an older stick: %v", err)
	}
	p.put("metadata/timestamp.json", signAll(p, p.timestamp, p.keys["timestamp"]))
	p.now = p.now.Add(400 * day)
	if _, err := release.Refresh(t.Context(), c); !errors.Is(err, release.ErrExpired) || !strings.Contains(err.Error(), "root") {
		t.Errorf("carried longer than the root lasts: %v", err)
	}
	p.root.Signed.Version, p.root.Signed.Expires = 2, p.now.Add(day)
	p.writeRoot(p.root, p.keys["root"])
	if _, err := release.Refresh(t.Context(), c); !errors.Is(err, release.ErrExpired) || !strings.Contains(err.Error(), "targets") {
		t.Errorf("carried longer than the releases are signed: %v", err)
	}
}

// A clock that stands at an impossible time neither brings expired metadata back nor
// keeps fresh metadata out.
func TestWrongClock(t *testing.T) {
	p := newProject(t)
	c := p.config(release.Dir(p.dir), nil)
	built := p.now
	c.Now = func() time.Time { return built.AddDate(-10, 0, 0) }
	c.NotBefore = built
	if _, err := release.Refresh(t.Context(), c); err != nil {
		t.Errorf("ten years behind: %v", err)
	}
	c.NotBefore = built.Add(20 * day)
	if _, err := release.Refresh(t.Context(), c); !errors.Is(err, release.ErrExpired) {
		t.Errorf("ten years behind, a newer machine: %v", err)
	}
	c.Now = func() time.Time { return built.AddDate(10, 0, 0) }
	if _, err := release.Refresh(t.Context(), c); !errors.Is(err, release.ErrExpired) || !strings.Contains(err.Error(), "clock") {
		t.Errorf("ten years ahead: %v", err)
	}
}

func TestStoreDir(t *testing.T) {
	p := newProject(t)
	dir := filepath.Join(t.TempDir(), "seen")
	if _, err := p.refresh(release.StoreDir(dir)); err != nil {
		t.Fatal(err)
	}
	old := p.get("metadata/timestamp.json")
	p.publish("13.0.0", map[string]string{"kernel": "new"})
	if _, err := p.refresh(release.StoreDir(dir)); err != nil {
		t.Fatal(err)
	}
	p.put("metadata/timestamp.json", old)
	if _, err := p.refresh(release.StoreDir(dir)); !errors.Is(err, release.ErrRollback) {
		t.Errorf("it does not remember: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 4 {
		t.Errorf("%v %v", entries, err)
	}
}
