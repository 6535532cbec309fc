// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"wherry.example/wherry/release"
)

type handler = func(http.ResponseWriter, *http.Request) bool

// on attacks requests for one file.
func on(name string, attack http.HandlerFunc) handler {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, name) {
			return false
		}
		attack(w, r)
		return true
	}
}

var sent atomic.Int64

// endless sends without end, or 10 GB when a length is claimed.
func endless(claim bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if claim {
			w.Header().Set("Content-Length", "10000000000")
		}
		junk := []byte(`{"signed":"` + strings.Repeat("x", 32<<10))
		for r.Context().Err() == nil {
			n, err := w.Write(junk)
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	}
}

func drip(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		io.WriteString(w, " ")
		http.NewResponseController(w).Flush()
		time.Sleep(20 * time.Millisecond)
	}
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func to(target string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", target)
		w.WriteHeader(http.StatusFound)
	}
}

func body(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.Write(data) }
}

// attack is what an enemy does to a machine that has read version 1 of everything, while
// the project has gone on to version 2.
type attack struct {
	name string
	want error  // nil: any error
	says string // part of its text
	// do may change the project's files, as somebody who has its keys, or return
	// what the server does.
	do   func(p *project, before map[string][]byte) handler
	seen bool // the machine has read version 2 too
}

func changed(data []byte, old, new string) []byte {
	return []byte(strings.Replace(string(data), old, new, 1))
}

var networkAttacks = []attack{
	{"endless timestamp", release.ErrTooLarge, "", func(*project, map[string][]byte) handler { return on("/timestamp.json", endless(false)) }, false},
	{"timestamp of 10 GB", release.ErrTooLarge, "", func(*project, map[string][]byte) handler { return on("/timestamp.json", endless(true)) }, false},
	{"endless root", release.ErrTooLarge, "", func(*project, map[string][]byte) handler { return on("/2.root.json", endless(false)) }, false},
	{"endless snapshot", release.ErrTooLarge, "", func(*project, map[string][]byte) handler { return on("/2.snapshot.json", endless(false)) }, false},
	{"endless targets", release.ErrTooLarge, "", func(*project, map[string][]byte) handler { return on("/2.targets.json", endless(true)) }, false},
	{"dripping timestamp", release.ErrSlow, "", func(*project, map[string][]byte) handler { return on("/timestamp.json", drip) }, false},
	{"dripping root", release.ErrSlow, "", func(*project, map[string][]byte) handler { return on("/2.root.json", drip) }, false},
	{"no answer", release.ErrSlow, "", func(*project, map[string][]byte) handler { return on("/timestamp.json", hang) }, false},
	{"redirected to a file", release.ErrRedirect, "", func(*project, map[string][]byte) handler {
		return on("/timestamp.json", to("file:///etc/passwd"))
	}, false},
	{"redirected to another server", release.ErrRedirect, "", func(p *project, _ map[string][]byte) handler {
		other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { p.t.Error("the other server was asked") }))
		p.t.Cleanup(other.Close)
		return on("/timestamp.json", to(other.URL))
	}, false},
	{"redirected in a circle", release.ErrRedirect, "", func(*project, map[string][]byte) handler {
		return on("/timestamp.json", to("/metadata/timestamp.json"))
	}, false},
	{"compressed", nil, "encoded", func(*project, map[string][]byte) handler {
		return on("/timestamp.json", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			io.WriteString(w, "x")
		})
	}, false},
	{"error of the server", nil, "500", func(*project, map[string][]byte) handler {
		return on("/2.root.json", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	}, false},
	{"deep nesting", nil, "", func(*project, map[string][]byte) handler {
		return on("/timestamp.json", body([]byte(`{"signed":`+strings.Repeat("[", 8000)+strings.Repeat("]", 8000)+"}")))
	}, false},
	{"timestamp missing", nil, "404", func(*project, map[string][]byte) handler {
		return on("/timestamp.json", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) })
	}, false},
}

var metadataAttacks = []attack{
	{"old timestamp", release.ErrRollback, "", func(_ *project, before map[string][]byte) handler {
		return on("/timestamp.json", body(before["timestamp.json"]))
	}, true},
	{"old snapshot under the new name", release.ErrMismatch, "", func(_ *project, before map[string][]byte) handler {
		return on("/2.snapshot.json", body(before["1.snapshot.json"]))
	}, false},
	{"old targets under the new name", release.ErrMismatch, "", func(_ *project, before map[string][]byte) handler {
		return on("/2.targets.json", body(before["1.targets.json"]))
	}, false},
	{"new timestamp of an old snapshot", release.ErrRollback, "", func(p *project, before map[string][]byte) handler {
		p.timestamp.Signed.Meta["snapshot.json"] = describe(before["1.snapshot.json"], 1)
		p.commitTimestamp()
		return nil
	}, true},
	{"new snapshot of old targets", release.ErrRollback, "", func(p *project, before map[string][]byte) handler {
		p.snapshot.Signed.Meta["targets.json"] = describe(before["1.targets.json"], 1)
		p.commitSnapshot()
		return nil
	}, true},
	{"targets changed", release.ErrMismatch, "", func(p *project, _ map[string][]byte) handler {
		return on("/2.targets.json", body(changed(p.get("metadata/2.targets.json"), `"percent":100`, `"percent":099`)))
	}, false},
	{"timestamp changed", release.ErrSignature, "", func(p *project, _ map[string][]byte) handler {
		return on("/timestamp.json", body(changed(p.get("metadata/timestamp.json"), `"version":2`, `"version":3`)))
	}, false},
	{"timestamp of another role's key", release.ErrSignature, "", func(p *project, _ map[string][]byte) handler {
		p.keys["timestamp"] = p.keys["snapshot"]
		p.commitTimestamp()
		return nil
	}, false},
	{"timestamp expired", release.ErrExpired, "", func(p *project, _ map[string][]byte) handler {
		p.now = p.now.Add(15 * day)
		return nil
	}, false},
	{"snapshot expired", release.ErrExpired, "", func(p *project, _ map[string][]byte) handler {
		p.now = p.now.Add(31 * day)
		p.commitTimestamp()
		return nil
	}, false},
	{"targets expired", release.ErrExpired, "", func(p *project, _ map[string][]byte) handler {
		p.root.Signed.Version, p.root.Signed.Expires = 2, p.now.Add(1000*day)
		p.writeRoot(p.root, p.keys["root"])
		p.now = p.now.Add(366 * day)
		p.commitSnapshot()
		return nil
	}, false},
	{"root expired", release.ErrExpired, "root.json", func(p *project, _ map[string][]byte) handler {
		p.now = p.now.Add(366 * day)
		p.commit()
		return nil
	}, false},
	{"snapshot not described", nil, "null", func(p *project, _ map[string][]byte) handler {
		p.timestamp.Signed.Meta = map[string]*metadata.MetaFiles{"snapshot.json": nil}
		p.commitTimestamp()
		return nil
	}, false},
	{"snapshot without a hash", nil, "SHA-256", func(p *project, _ map[string][]byte) handler {
		p.timestamp.Signed.Meta["snapshot.json"].Hashes = nil
		p.commitTimestamp()
		return nil
	}, false},
	{"snapshot of 10 GB announced", release.ErrTooLarge, "", func(p *project, _ map[string][]byte) handler {
		p.timestamp.Signed.Meta["snapshot.json"].Length = 10e9
		p.commitTimestamp()
		return nil
	}, false},
	{"target that is null", nil, "null", func(p *project, _ map[string][]byte) handler {
		p.targets.Signed.Targets["releases/1.0.0/core-amd64/x"] = nil
		p.commit()
		return nil
	}, false},
	{"target that leads elsewhere", nil, "", func(p *project, _ map[string][]byte) handler {
		p.targets.Signed.Targets["releases/1.0.0/../../x"] = &metadata.TargetFiles{}
		p.commit()
		return nil
	}, false},
	{"delegations", nil, "delegations", func(p *project, _ map[string][]byte) handler {
		p.targets.Signed.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}}
		p.commit()
		return nil
	}, false},
}

// nextRoot writes a second root that only some have signed.
func nextRoot(p *project, version int64, keys []ed25519.PrivateKey) {
	p.root.Signed.Version = version
	data := signAll(p, p.root, keys)
	p.put("metadata/2.root.json", data)
}

var rootAttacks = []attack{
	{"root signed by one of two", release.ErrSignature, "", func(p *project, _ map[string][]byte) handler {
		nextRoot(p, 2, p.keys["root"][:1])
		return nil
	}, false},
	{"root signed twice by one", nil, "", func(p *project, _ map[string][]byte) handler {
		k := p.keys["root"][0]
		nextRoot(p, 2, []ed25519.PrivateKey{k, k})
		return nil
	}, false},
	{"root signed by the online keys", release.ErrSignature, "", func(p *project, _ map[string][]byte) handler {
		nextRoot(p, 2, append(p.keys["targets"], p.keys["snapshot"]...))
		return nil
	}, false},
	{"root signed by its own new keys only", release.ErrSignature, "", func(p *project, _ map[string][]byte) handler {
		p.root.Signed.Roles["root"].KeyIDs, p.keys["root"] = nil, nil
		p.addKey("root")
		p.addKey("root")
		nextRoot(p, 2, p.keys["root"])
		return nil
	}, false},
	{"root skipped", release.ErrRollback, "", func(p *project, _ map[string][]byte) handler {
		nextRoot(p, 3, p.keys["root"])
		return nil
	}, false},
	{"root repeated", release.ErrRollback, "", func(p *project, _ map[string][]byte) handler {
		p.put("metadata/2.root.json", p.firstRoot)
		return nil
	}, false},
	{"targets in the root's place", nil, "", func(p *project, _ map[string][]byte) handler {
		p.put("metadata/2.root.json", p.get("metadata/1.targets.json"))
		return nil
	}, false},
	{"root that needs no signature", nil, "threshold", func(p *project, _ map[string][]byte) handler {
		p.root.Signed.Roles["timestamp"].Threshold = 0
		nextRoot(p, 2, p.keys["root"])
		return nil
	}, false},
	{"root with a key that is null", nil, "null", func(p *project, _ map[string][]byte) handler {
		p.root.Signed.Keys[p.root.Signed.Roles["timestamp"].KeyIDs[0]] = nil
		nextRoot(p, 2, p.keys["root"])
		return nil
	}, false},
	{"revoked timestamp key", release.ErrSignature, "", func(p *project, _ map[string][]byte) handler {
		stolen := p.keys["timestamp"]
		p.rotate("timestamp")
		p.keys["timestamp"] = stolen
		p.commitTimestamp()
		return nil
	}, false},
	{"roots without end", release.ErrTooLarge, "", func(p *project, _ map[string][]byte) handler {
		for p.root.Signed.Version < 25 {
			p.root.Signed.Version++
			p.writeRoot(p.root, p.keys["root"])
		}
		return nil
	}, false},
}

// cost fails the test when f takes long or much memory.
func cost(t *testing.T, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	sent.Store(0)
	runtime.ReadMemStats(&before)
	start := time.Now()
	f()
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 48<<20 {
		t.Errorf("%d MB were allocated", used>>20)
	}
	if took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	if n := sent.Load(); n > 32<<20 {
		t.Errorf("%d MB were taken from the network", n>>20)
	}
}

func TestAttacks(t *testing.T) {
	for _, list := range [][]attack{networkAttacks, metadataAttacks, rootAttacks} {
		for _, a := range list {
			t.Run(a.name, func(t *testing.T) { testAttack(t, a) })
		}
	}
}

func testAttack(t *testing.T, a attack) {
	p := newProject(t)
	store := memory{}
	if _, err := p.refresh(store); err != nil {
		t.Fatal(err)
	}
	before := map[string][]byte{}
	for _, name := range []string{"timestamp.json", "1.snapshot.json", "1.targets.json"} {
		before[name] = p.get("metadata/" + name)
	}
	p.publish("12.1.0", map[string]string{"kernel": "new", "root.squashfs": "new root"})
	if a.seen {
		if _, err := p.refresh(store); err != nil {
			t.Fatal(err)
		}
	}
	source := p.serve(a.do(p, before))
	remembered := store["targets.json"]
	var err error
	cost(t, func() { _, err = release.Refresh(t.Context(), p.config(source, store)) })
	if err == nil {
		t.Fatal("the machine believed it")
	}
	if a.want != nil && !errors.Is(err, a.want) || !strings.Contains(err.Error(), a.says) {
		t.Errorf("want %v %q: %v", a.want, a.says, err)
	}
	if !bytes.Equal(store["targets.json"], remembered) {
		t.Error("targets were remembered that were refused")
	}
}

// As many releases as a machine may be told of cost it little enough.
func TestFullTargets(t *testing.T) {
	p := newProject(t)
	one := p.targets.Signed.Targets["releases/12.0.0/core-amd64/manifest.json"]
	for i := range 900 {
		dir := release.Folder(release.Version{Days: 20, Minor: i}, "core", "amd64")
		p.targets.Signed.Targets[dir+"/manifest.json"] = one
		for _, name := range []string{"kernel", "initramfs", "root.squashfs", "wherry.efi", "sbom.json"} {
			p.targets.Signed.Targets[dir+"/"+name] = &metadata.TargetFiles{Length: 1, Hashes: one.Hashes}
		}
	}
	p.commit()
	source, limits := p.serve(nil), limits()
	limits.FileTime = time.Minute // it is the work that is measured here
	c := p.config(source, nil)
	c.Limits = limits
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r, err := release.Refresh(t.Context(), c)
	runtime.ReadMemStats(&after)
	if err != nil || len(r.Releases) != 901 {
		t.Fatalf("%v", err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 100<<20 {
		t.Errorf("%d MB were allocated for %d bytes", used>>20, len(p.get("metadata/2.targets.json")))
	}
	t.Logf("%d bytes: %d MB allocated, heap %d MB", len(p.get("metadata/2.targets.json")), (after.TotalAlloc-before.TotalAlloc)>>20, after.HeapInuse>>20)
}

// Without an attack, the same machine reads the second version.
func TestNoAttack(t *testing.T) {
	p := newProject(t)
	store := memory{}
	if _, err := p.refresh(store); err != nil {
		t.Fatal(err)
	}
	p.publish("12.1.0", map[string]string{"kernel": "new"})
	var r *release.Repository
	var err error
	source := p.serve(nil)
	cost(t, func() { r, err = release.Refresh(t.Context(), p.config(source, store)) })
	if err != nil || len(r.Releases) != 2 || r.Releases[0].Version.String() != "12.1.0" {
		t.Fatalf("%+v %v", r, err)
	}
	if _, err := r.Manifest(t.Context(), r.Releases[0]); err != nil {
		t.Error(err)
	}
}
