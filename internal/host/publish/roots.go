// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"wherry.example/wherry/internal/atomicfile"
)

func describe(data []byte, version int64) *metadata.MetaFiles {
	sum := sha256.Sum256(data)
	return &metadata.MetaFiles{Version: version, Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}}
}

// Init makes a repository without releases. The keys are all that are found; the
// root needs rootThreshold of its.
func Init(ctx context.Context, dir string, keys Keys, rootThreshold int, now func() time.Time) error {
	for _, d := range []string{filepath.Join(dir, "metadata"), filepath.Join(dir, "targets")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	r, err := locked(dir, now)
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := os.Stat(r.metadataFile("timestamp.json")); err == nil {
		return fmt.Errorf("there is a repository in %s already", dir)
	}
	if err := r.firstRoot(keys, rootThreshold); err != nil {
		return err
	}
	r.targets, r.snapshot, r.timestamp = metadata.Targets(), metadata.Snapshot(), metadata.Timestamp()
	r.targets.Signed.Version, r.snapshot.Signed.Version, r.timestamp.Signed.Version = 0, 0, 0
	return r.commit(ctx, keys, true)
}

// firstRoot takes one that an earlier Init, which was cut off, wrote. Its keys
// must be at hand still.
func (r *Repository) firstRoot(keys Keys, threshold int) error {
	if err := r.readRoots(); err == nil {
		return nil
	}
	root := metadata.Root(r.Now().UTC().Truncate(time.Second).Add(rootLife))
	for _, role := range append([]string{metadata.ROOT}, onlineRoles...) {
		of, err := keys.Of(role)
		if err != nil {
			return err
		}
		for _, k := range of {
			if err := root.Signed.AddKey(k.public, role); err != nil {
				return err
			}
		}
	}
	if n := len(root.Signed.Roles[metadata.ROOT].KeyIDs); threshold < 1 || threshold > n {
		return fmt.Errorf("a threshold of %d with %d root keys: name more keys with --root-key", threshold, n)
	}
	root.Signed.Roles[metadata.ROOT].Threshold = threshold
	of, err := keys.Of(metadata.ROOT)
	if err != nil {
		return err
	}
	return r.saveRoot(root, of, root)
}

// saveRoot signs a root with the keys of all the roots that must agree, and writes it.
func (r *Repository) saveRoot(root *metadata.Metadata[metadata.RootType], keys []Key, agree ...*metadata.Metadata[metadata.RootType]) error {
	if err := sign(root, metadata.ROOT, keys, agree...); err != nil {
		return err
	}
	data, err := root.ToBytes(false)
	if err != nil {
		return err
	}
	if err := r.write(r.metadataFile(fmt.Sprintf("%d.root.json", root.Signed.Version)), data); err != nil {
		return err
	}
	r.root = root
	return nil
}

// nextRoot is a copy of the current one with the next version and a new expiry.
func (r *Repository) nextRoot() (*metadata.Metadata[metadata.RootType], error) {
	data, err := r.root.ToBytes(false)
	if err != nil {
		return nil, err
	}
	next, err := metadata.Root().FromBytes(data)
	if err != nil {
		return nil, err
	}
	next.Signed.Version++
	next.Signed.Expires = r.Now().UTC().Truncate(time.Second).Add(rootLife)
	return next, nil
}

// RenewRoot signs the same root keys anew, for the time to come.
func (r *Repository) RenewRoot(keys Keys) error {
	next, err := r.nextRoot()
	if err != nil {
		return err
	}
	of, err := keys.Of(metadata.ROOT)
	if err != nil {
		return err
	}
	return r.saveRoot(next, of, r.root, next)
}

// RotateRoot replaces the root's keys by the new ones. Old and new sign the
// change, so that whoever trusts the old comes to trust the new.
func (r *Repository) RotateRoot(keys Keys, fresh []Key) error {
	old, err := keys.Of(metadata.ROOT)
	if err != nil {
		return err
	}
	next, err := r.nextRoot()
	if err != nil {
		return err
	}
	if err := replaceKeys(next, metadata.ROOT, fresh); err != nil {
		return err
	}
	if threshold := next.Signed.Roles[metadata.ROOT].Threshold; threshold > len(fresh) {
		return fmt.Errorf("the root needs %d signatures: make %d new keys", threshold, threshold)
	}
	return r.saveRoot(next, append(old, fresh...), r.root, next)
}

func replaceKeys(root *metadata.Metadata[metadata.RootType], role string, fresh []Key) error {
	for _, id := range slices.Clone(root.Signed.Roles[role].KeyIDs) {
		if slices.ContainsFunc(fresh, func(k Key) bool { return k.ID() == id }) {
			continue
		}
		if err := root.Signed.RevokeKey(id, role); err != nil {
			return err
		}
	}
	for _, k := range fresh {
		if err := root.Signed.AddKey(k.public, role); err != nil {
			return err
		}
	}
	return nil
}

// Rotate replaces the keys of targets, snapshot or timestamp by a new one, in two
// steps, each of which is a whole: first a root that knows old and new and metadata signed
// by both, then a root that knows the new only. A reader between sees either.
// Interrupted, it may be done again. The old files are kept as FILE.retired.
func (r *Repository) Rotate(ctx context.Context, role string, keys Keys) (Key, error) {
	if !slices.Contains(onlineRoles, role) {
		return Key{}, fmt.Errorf("role %.40q: want root, targets, snapshot or timestamp", role)
	}
	rootKeys, err := keys.Of(metadata.ROOT)
	if err != nil {
		return Key{}, err
	}
	old, err := keys.Of(role)
	if err != nil {
		return Key{}, err
	}
	fresh, err := keys.New(role, "")
	if err != nil {
		return Key{}, err
	}
	both, err := r.nextRoot()
	if err != nil {
		return Key{}, err
	}
	before := r.root
	if err := both.Signed.AddKey(fresh.public, role); err != nil {
		return Key{}, err
	}
	if err := r.saveRoot(both, rootKeys, before, both); err != nil {
		return Key{}, err
	}
	if err := r.commit(ctx, keys, role == metadata.TARGETS, before, both); err != nil {
		return Key{}, err
	}
	return fresh, r.revoke(ctx, role, keys, rootKeys, old, fresh)
}

func (r *Repository) revoke(ctx context.Context, role string, keys Keys, rootKeys, old []Key, fresh Key) error {
	last, err := r.nextRoot()
	if err != nil {
		return err
	}
	if err := replaceKeys(last, role, []Key{fresh}); err != nil {
		return err
	}
	last.Signed.Roles[role].Threshold = 1
	if err := r.saveRoot(last, rootKeys, r.root, last); err != nil {
		return err
	}
	for _, k := range old {
		err = errors.Join(err, os.Rename(k.File, k.File+".retired"))
	}
	if err := errors.Join(err, atomicfile.SyncDir(keys.Dir)); err != nil {
		return err
	}
	return r.commit(ctx, keys, role == metadata.TARGETS)
}

// KeyInfo tells about a key that the root lists.
type KeyInfo struct {
	Role      string    `json:"role"`
	ID        string    `json:"id"`
	Public    string    `json:"public"`
	Threshold int       `json:"threshold"`
	File      string    `json:"file,omitempty"` // of the private key, when it is at hand
	Expires   time.Time `json:"expires"`        // the role's signature
}

// KeyInfos lists the keys of all roles.
func (r *Repository) KeyInfos(keys Keys) ([]KeyInfo, error) {
	expires := map[string]time.Time{metadata.ROOT: r.root.Signed.Expires, metadata.TARGETS: r.targets.Signed.Expires,
		metadata.SNAPSHOT: r.snapshot.Signed.Expires, metadata.TIMESTAMP: r.timestamp.Signed.Expires}
	infos := []KeyInfo{}
	for _, role := range append([]string{metadata.ROOT}, onlineRoles...) {
		files, err := keys.Files(role)
		if err != nil {
			return nil, err
		}
		for _, id := range r.root.Signed.Roles[role].KeyIDs {
			i := KeyInfo{Role: role, ID: id, Public: r.root.Signed.Keys[id].Value.PublicKey, Threshold: r.root.Signed.Roles[role].Threshold, Expires: expires[role]}
			if at := slices.IndexFunc(files, func(f string) bool { return filepath.Base(f) == fmt.Sprintf("%s-%s.pem", role, id[:min(8, len(id))]) }); at >= 0 {
				i.File = files[at]
			}
			infos = append(infos, i)
		}
	}
	return infos, nil
}
