// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"wherry.example/wherry/release"
)

// project is a publisher made for tests: it holds all keys, writes what an
// honest one would, and lets a test sign whatever it likes.
type project struct {
	t         testing.TB
	dir       string
	now       time.Time
	keys      map[string][]ed25519.PrivateKey
	root      *metadata.Metadata[metadata.RootType]
	targets   *metadata.Metadata[metadata.TargetsType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	timestamp *metadata.Metadata[metadata.TimestampType]
	firstRoot []byte
	made      int
}

var day = 24 * time.Hour

// newProject has a root of two keys, both needed, and one release.
func newProject(t testing.TB) *project { return newProjectOf(t, 0) }

// newProjectOf has other keys for each number.
func newProjectOf(t testing.TB, number int) *project {
	t.Helper()
	p := &project{t: t, made: 1000 * number, dir: t.TempDir(), now: release.Epoch.Add(100 * day), keys: map[string][]ed25519.PrivateKey{}}
	p.root = metadata.Root(p.now.Add(365 * day))
	for _, role := range []string{"root", "root", "targets", "snapshot", "timestamp"} {
		p.addKey(role)
	}
	p.root.Signed.Roles["root"].Threshold = 2
	p.firstRoot = p.writeRoot(p.root, p.keys["root"])
	p.targets, p.snapshot, p.timestamp = metadata.Targets(), metadata.Snapshot(), metadata.Timestamp()
	p.targets.Signed.Version, p.snapshot.Signed.Version, p.timestamp.Signed.Version = 0, 0, 0
	p.publish("12.0.0", map[string]string{"kernel": strings.Repeat("kernel ", 10000), "root.squashfs": "root"})
	return p
}

func (p *project) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// addKey makes a key from a seed that is the same in every run.
func (p *project) addKey(role string) {
	p.made++
	seed := sha256.Sum256(fmt.Appendf(nil, "key %d", p.made))
	key := ed25519.NewKeyFromSeed(seed[:])
	p.keys[role] = append(p.keys[role], key)
	public, err := metadata.KeyFromPublicKey(key.Public())
	p.check(err)
	p.check(p.root.Signed.AddKey(public, role))
}

func signAll[T metadata.Roles](p *project, m *metadata.Metadata[T], keys []ed25519.PrivateKey) []byte {
	p.t.Helper()
	m.ClearSignatures()
	for _, k := range keys {
		s, err := signature.LoadED25519Signer(k)
		p.check(err)
		_, err = m.Sign(s)
		p.check(err)
	}
	data, err := m.ToBytes(false)
	p.check(err)
	return data
}

func (p *project) put(name string, data []byte) {
	file := filepath.Join(p.dir, filepath.FromSlash(name))
	p.check(os.MkdirAll(filepath.Dir(file), 0o755))
	p.check(os.WriteFile(file, data, 0o644))
}

func (p *project) get(name string) []byte {
	data, err := os.ReadFile(filepath.Join(p.dir, filepath.FromSlash(name)))
	p.check(err)
	return data
}

func (p *project) writeRoot(m *metadata.Metadata[metadata.RootType], keys []ed25519.PrivateKey) []byte {
	data := signAll(p, m, keys)
	p.put(fmt.Sprintf("metadata/%d.root.json", m.Signed.Version), data)
	return data
}

func describe(data []byte, version int64) *metadata.MetaFiles {
	sum := sha256.Sum256(data)
	return &metadata.MetaFiles{Version: version, Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}

// commit signs and writes targets, snapshot and timestamp.
func (p *project) commit() {
	p.t.Helper()
	p.targets.Signed.Version++
	p.targets.Signed.Expires = p.now.Add(365 * day)
	data := signAll(p, p.targets, p.keys["targets"])
	p.put(fmt.Sprintf("metadata/%d.targets.json", p.targets.Signed.Version), data)
	p.snapshot.Signed.Meta = map[string]*metadata.MetaFiles{"targets.json": describe(data, p.targets.Signed.Version)}
	p.commitSnapshot()
}

func (p *project) commitSnapshot() {
	p.snapshot.Signed.Version++
	p.snapshot.Signed.Expires = p.now.Add(30 * day)
	data := signAll(p, p.snapshot, p.keys["snapshot"])
	p.put(fmt.Sprintf("metadata/%d.snapshot.json", p.snapshot.Signed.Version), data)
	p.timestamp.Signed.Meta = map[string]*metadata.MetaFiles{"snapshot.json": describe(data, p.snapshot.Signed.Version)}
	p.commitTimestamp()
}

func (p *project) commitTimestamp() {
	p.timestamp.Signed.Version++
	p.timestamp.Signed.Expires = p.now.Add(14 * day)
	p.put("metadata/timestamp.json", signAll(p, p.timestamp, p.keys["timestamp"]))
}

func (p *project) publish(version string, parts map[string]string) {
	p.t.Helper()
	v, err := release.ParseVersion(version)
	p.check(err)
	m := release.Manifest{Version: v, Edition: "core", Arch: "amd64"}
	dir := release.Folder(v, "core", "amd64")
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		m.Parts = append(m.Parts, release.Part{Name: name, Bytes: int64(len(parts[name])), SHA256: p.addTarget(dir+"/"+name, []byte(parts[name]))})
	}
	data, err := json.Marshal(m)
	p.check(err)
	p.addTarget(dir+"/manifest.json", data)
	raw, err := release.Entry{Published: p.now, Channels: map[release.Channel]release.Rollout{release.Stable: {Percent: 100}}}.MarshalCustom()
	p.check(err)
	p.targets.Signed.Targets[dir+"/manifest.json"].Custom = &raw
	p.commit()
}

func (p *project) addTarget(name string, data []byte) string {
	sum := sha256.Sum256(data)
	hash := hex.EncodeToString(sum[:])
	p.targets.Signed.Targets[name] = &metadata.TargetFiles{Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
	p.put(release.File{Path: name, SHA256: hash}.Location(), data)
	return hash
}

// rotate replaces all keys of a role and signs everything anew.
func (p *project) rotate(role string) {
	p.t.Helper()
	old := p.keys[role]
	for _, id := range slices.Clone(p.root.Signed.Roles[role].KeyIDs) {
		p.check(p.root.Signed.RevokeKey(id, role))
	}
	p.keys[role] = nil
	for range old {
		p.addKey(role)
	}
	p.root.Signed.Version++
	p.root.Signed.Expires = p.now.Add(365 * day)
	signers := p.keys["root"]
	if role == "root" {
		signers = append(slices.Clone(old), p.keys["root"]...)
	}
	p.writeRoot(p.root, signers)
	p.commit()
}

// memory is a store that a test can look into.
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

// limits are small, so that attacks on time end soon.
func limits() *release.Limits {
	l := release.DefaultLimits()
	l.FileTime, l.RefreshTime, l.Roots = 400*time.Millisecond, 4*time.Second, 20
	l.Window, l.WindowBytes, l.Attempts = 300*time.Millisecond, 10<<10, 5
	return &l
}

func (p *project) config(source release.Source, store release.Store) release.Config {
	return release.Config{Root: p.firstRoot, Source: source, Store: store, Limits: limits(), Now: func() time.Time { return p.now }}
}

func (p *project) refresh(store release.Store) (*release.Repository, error) {
	return release.Refresh(p.t.Context(), p.config(release.Dir(p.dir), store))
}

// serve is a web server for the project's files; attack answers in its place
// when it returns true.
func (p *project) serve(attack func(http.ResponseWriter, *http.Request) bool) *release.HTTP {
	files := http.FileServer(http.Dir(p.dir))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if attack == nil || !attack(w, r) {
			files.ServeHTTP(w, r)
		}
	}))
	p.t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	h, err := release.NewHTTP(s.URL)
	p.check(err)
	return h
}
