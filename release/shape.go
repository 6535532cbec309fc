// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"encoding/hex"
	"fmt"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Bounds on what metadata may hold, so that verifying it costs little. The
// signature's arithmetic comes after these checks.
const (
	maxKeys       = 64
	maxSignatures = 64
	maxRoleKeys   = 16
)

// bounds of one role's file.
func checkSignatures(s []metadata.Signature) error {
	if len(s) > maxSignatures {
		return fmt.Errorf("%w: %d signatures", ErrTooLarge, len(s))
	}
	return nil
}

func checkRoot(data []byte) (version int64, err error) {
	if err := checkJSON(data); err != nil {
		return 0, err
	}
	m, err := metadata.Root().FromBytes(data)
	if err != nil {
		return 0, err
	}
	if err := checkSignatures(m.Signatures); err != nil {
		return 0, err
	}
	r := m.Signed
	if !r.ConsistentSnapshot {
		return 0, fmt.Errorf("consistent_snapshot must be true")
	}
	if len(r.Keys) > maxKeys || len(r.Roles) != len(metadata.TOP_LEVEL_ROLE_NAMES) {
		return 0, fmt.Errorf("%d keys and %d roles: want at most %d, and four", len(r.Keys), len(r.Roles), maxKeys)
	}
	for id, k := range r.Keys {
		if err := checkKey(k); err != nil {
			return 0, fmt.Errorf("key %.80q: %w", id, err)
		}
	}
	for _, name := range metadata.TOP_LEVEL_ROLE_NAMES {
		role := r.Roles[name]
		if role == nil || len(role.KeyIDs) > maxRoleKeys || role.Threshold < 1 || role.Threshold > len(role.KeyIDs) {
			return 0, fmt.Errorf("role %s: not 1 to %d keys and a threshold within", name, maxRoleKeys)
		}
	}
	return r.Version, nil
}

func checkKey(k *metadata.Key) error {
	if k == nil || k.Type != metadata.KeyTypeEd25519 || k.Scheme != metadata.KeySchemeEd25519 {
		return fmt.Errorf("not an Ed25519 key")
	}
	if b, err := hex.DecodeString(k.Value.PublicKey); err != nil || len(b) != 32 {
		return fmt.Errorf("not 32 bytes in hex")
	}
	return nil
}

// checkMeta wants exactly one file described, by version, length and hash.
func checkMeta(files map[string]*metadata.MetaFiles, name string, limit int64) error {
	f := files[name]
	if len(files) != 1 || f == nil {
		return fmt.Errorf("want %s described, and nothing else", name)
	}
	if f.Version < 1 || f.Length < 1 || len(f.Hashes["sha256"]) != 32 || len(f.Hashes) != 1 {
		return fmt.Errorf("want version, length and SHA-256 of %s", name)
	}
	if f.Length > limit {
		return fmt.Errorf("%s: %w: %d bytes, the limit is %d", name, ErrTooLarge, f.Length, limit)
	}
	return nil
}

func checkTimestamp(data []byte, l Limits) (expires time.Time, err error) {
	if err := checkJSON(data); err != nil {
		return expires, err
	}
	m, err := metadata.Timestamp().FromBytes(data)
	if err != nil {
		return expires, err
	}
	if err := checkSignatures(m.Signatures); err != nil {
		return expires, err
	}
	return m.Signed.Expires, checkMeta(m.Signed.Meta, "snapshot.json", l.SnapshotBytes)
}

func checkSnapshot(data []byte, l Limits) (expires time.Time, err error) {
	if err := checkJSON(data); err != nil {
		return expires, err
	}
	m, err := metadata.Snapshot().FromBytes(data)
	if err != nil {
		return expires, err
	}
	if err := checkSignatures(m.Signatures); err != nil {
		return expires, err
	}
	return m.Signed.Expires, checkMeta(m.Signed.Meta, "targets.json", l.TargetsBytes)
}
