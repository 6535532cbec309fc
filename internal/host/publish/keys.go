// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// maxKeyFile bounds what is read as a key.
const maxKeyFile = 64 << 10

// Roles that keys are for. The root's keys lie apart from the others.
var onlineRoles = []string{metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP}

// Key is a private key and the file in which it lies.
type Key struct {
	Role    string
	File    string
	private ed25519.PrivateKey
	public  *metadata.Key
	id      string
}

// ID is the key's id in metadata.
func (k Key) ID() string { return k.id }

// Keys finds private keys. Dir holds those of targets, snapshot and timestamp, as
// ROLE-ID.pem; the root's are named one by one and needed only to change keys.
type Keys struct {
	Dir        string
	RootFiles  []string
	Passphrase func(file string) ([]byte, error) // for encrypted files
	Protect    bool                              // new files get a passphrase too
}

// New makes a key for a role. The root's goes into file.
func (k Keys) New(role, file string) (Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, err
	}
	key, err := newKey(role, file, private)
	if err != nil {
		return Key{}, err
	}
	if role != metadata.ROOT {
		if err := os.MkdirAll(k.Dir, 0o700); err != nil {
			return Key{}, err
		}
		key.File = filepath.Join(k.Dir, fmt.Sprintf("%s-%s.pem", role, key.ID()[:8]))
	}
	var passphrase []byte
	if k.Protect {
		if passphrase, err = k.passphrase(key.File); err != nil {
			return Key{}, err
		}
	}
	data, err := marshalKey(private, passphrase)
	if err != nil {
		return Key{}, err
	}
	return key, writeNew(key.File, data)
}

func (k Keys) passphrase(file string) ([]byte, error) {
	if k.Passphrase == nil {
		return nil, errors.New("it needs a passphrase, and nobody is there to ask")
	}
	return k.Passphrase(file)
}

// writeNew never replaces a file: a lost key cannot be brought back.
func writeNew(file string, data []byte) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already: name another file, or use that key", file)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func newKey(role, file string, private ed25519.PrivateKey) (Key, error) {
	public, err := metadata.KeyFromPublicKey(private.Public())
	if err != nil {
		return Key{}, err
	}
	id, err := public.ID()
	return Key{role, file, private, public, id}, err
}

// Read reads a key file.
func (k Keys) Read(role, file string) (Key, error) {
	info, err := os.Stat(file)
	if err != nil {
		return Key{}, fmt.Errorf("read the %s key: %w", role, err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return Key{}, fmt.Errorf("read the %s key: %s is not a key file", role, file)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return Key{}, fmt.Errorf("read the %s key: %w", role, err)
	}
	private, err := parseKey(data, func() ([]byte, error) { return k.passphrase(file) })
	if err != nil {
		return Key{}, fmt.Errorf("read the %s key %s: %w", role, file, err)
	}
	return newKey(role, file, private)
}

// Files are the key files of a role.
func (k Keys) Files(role string) ([]string, error) {
	if role == metadata.ROOT {
		return k.RootFiles, nil
	}
	return filepath.Glob(filepath.Join(k.Dir, role+"-*.pem"))
}

// Of reads the keys of a role.
func (k Keys) Of(role string) ([]Key, error) {
	files, err := k.Files(role)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		if role == metadata.ROOT {
			return nil, errors.New("the root key is needed: name its file with --root-key")
		}
		return nil, fmt.Errorf("there is no %s key in %s: make one with `wherry release key new`", role, k.Dir)
	}
	var keys []Key
	for _, f := range files {
		key, err := k.Read(role, f)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// sign replaces the signatures by those of the role's keys that root lists. It
// refuses to write what nobody would accept.
func sign[T metadata.Roles](m *metadata.Metadata[T], role string, keys []Key, roots ...*metadata.Metadata[metadata.RootType]) error {
	m.ClearSignatures()
	for _, k := range keys {
		listed := slices.ContainsFunc(roots, func(r *metadata.Metadata[metadata.RootType]) bool {
			return slices.Contains(r.Signed.Roles[role].KeyIDs, k.ID())
		})
		if !listed {
			continue
		}
		signer, err := signature.LoadED25519Signer(k.private)
		if err != nil {
			return err
		}
		if _, err := m.Sign(signer); err != nil {
			return fmt.Errorf("sign %s with %s: %w", role, k.File, err)
		}
	}
	for _, r := range roots {
		if err := r.VerifyDelegate(role, m); err != nil {
			return fmt.Errorf("sign %s: the keys at hand are not enough or not the right ones: %w", role, err)
		}
	}
	return nil
}
