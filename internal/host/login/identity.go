// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package login proves who the user is to a machine, and the machine to the user.
//
// The user's keys are tried in order: the one named with --identity alone; else
// the key that the machine knew last time, the Ed25519 keys of ssh-agent,
// ~/.ssh/id_ed25519, ~/.ssh/id_ecdsa, and Wherry's own key in its configuration
// directory, which exists where `wherry vm start` found no other. Keys that need
// a passphrase come after those that do not. TLS shows one key per connection, so
// each try is a connection; the machine's answer to WhoAmI says whether it knew it.
//
// Machines are known by their key (package known). At first contact the user is
// asked, with the fingerprint before their eyes; without a terminal the answer is
// no. A key that differs from the known one ends the connection before anything
// is sent. Nothing here is silent about what the user can do.
package login

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"wherry.example/wherry/internal/host/known"
	"wherry.example/wherry/internal/sshkey"
)

// Options says where the user's keys are.
type Options struct {
	IdentityFile string // --identity; when set, no other key is tried
	AgentSocket  string // SSH_AUTH_SOCK; empty: no agent
	SSHDir       string // ~/.ssh
	ConfigDir    string // Wherry's
	Ask          Asker  // nil: nobody can be asked
}

// Default returns the options of the user who runs this program.
func Default() (Options, error) {
	dir, err := known.ConfigDir()
	if err != nil {
		return Options{}, err
	}
	o := Options{AgentSocket: os.Getenv("SSH_AUTH_SOCK"), ConfigDir: dir}
	if home, err := os.UserHomeDir(); err == nil {
		o.SSHDir = filepath.Join(home, ".ssh")
	}
	return o, nil
}

// Identity is one key of the user's.
type Identity struct {
	Source      string // for people: a path, or "ssh-agent"
	Public      crypto.PublicKey
	Fingerprint string
	Comment     string
	Locked      bool // a passphrase will be asked for
	signer      func(context.Context) (crypto.Signer, error)
}

// Signer returns the private key, asking for its passphrase where it has one.
func (i Identity) Signer(ctx context.Context) (crypto.Signer, error) { return i.signer(ctx) }

// Identities returns the user's keys in the order in which they are tried, and
// why others that exist cannot be used.
func Identities(ctx context.Context, o Options) (list []Identity, problems []error) {
	if o.IdentityFile != "" {
		id, err := fromFile(o.IdentityFile, o.Ask)
		if err != nil {
			return nil, []error{err}
		}
		return []Identity{id}, nil
	}
	if o.AgentSocket != "" {
		fromAgent, err := agentKeys(ctx, o.AgentSocket)
		list = fromAgent
		if err != nil {
			problems = append(problems, err)
		}
	}
	for _, path := range o.files() {
		id, err := fromFile(path, o.Ask)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			problems = append(problems, err)
		case !slices.ContainsFunc(list, func(x Identity) bool { return x.Fingerprint == id.Fingerprint }):
			list = append(list, id)
		}
	}
	slices.SortStableFunc(list, func(a, b Identity) int { return boolCompare(a.Locked, b.Locked) })
	return list, problems
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func (o Options) files() []string {
	var paths []string
	if o.SSHDir != "" {
		paths = append(paths, filepath.Join(o.SSHDir, "id_ed25519"), filepath.Join(o.SSHDir, "id_ecdsa"))
	}
	return append(paths, o.ownKey())
}

func (o Options) ownKey() string { return filepath.Join(o.ConfigDir, "key") }

const maxKeyBytes = 64 << 10

// fromFile reads an OpenSSH (or PEM) private key. One with a passphrase is
// opened when it is needed.
func fromFile(path string, ask Asker) (Identity, error) {
	data, err := readBounded(path)
	if err != nil {
		return Identity{}, fmt.Errorf("read SSH key: %w", err)
	}
	key, err := ssh.ParseRawPrivateKey(data)
	var missing *ssh.PassphraseMissingError
	if errors.As(err, &missing) {
		return lockedKey(path, data, missing.PublicKey, ask)
	}
	if err != nil {
		return Identity{}, fmt.Errorf("read SSH key %s: %w (is it a private key?)", path, err)
	}
	signer, err := signerOf(key)
	if err != nil {
		return Identity{}, fmt.Errorf("SSH key %s: %w", path, err)
	}
	id, err := newIdentity(path, signer.Public())
	id.Comment = publicComment(path)
	id.signer = func(context.Context) (crypto.Signer, error) { return signer, nil }
	return id, err
}

// lockedKey is a key whose passphrase is asked for at first use. Old PEM files
// do not tell their public key: the .pub file beside them does.
func lockedKey(path string, data []byte, public ssh.PublicKey, ask Asker) (Identity, error) {
	var pub crypto.PublicKey
	var err error
	if public != nil {
		pub, err = sshkey.Crypto(public)
	} else {
		var p sshkey.Public
		p, err = readPublic(path + ".pub")
		pub = p.Key
	}
	if err != nil {
		return Identity{}, fmt.Errorf("SSH key %s: %w", path, err)
	}
	id, err := newIdentity(path, pub)
	id.Comment = publicComment(path)
	id.Locked = true
	id.signer = func(ctx context.Context) (crypto.Signer, error) { return unlock(ctx, path, data, ask) }
	return id, err
}

const passphraseTries = 3

func unlock(ctx context.Context, path string, data []byte, ask Asker) (crypto.Signer, error) {
	if ask == nil {
		return nil, fmt.Errorf("SSH key %s needs a passphrase and there is no terminal to ask on: add it to ssh-agent", path)
	}
	for range passphraseTries {
		phrase, err := ask.Passphrase(ctx, fmt.Sprintf("Passphrase of %s: ", path))
		if err != nil {
			return nil, fmt.Errorf("ask for the passphrase of %s: %w", path, err)
		}
		key, err := ssh.ParseRawPrivateKeyWithPassphrase(data, phrase)
		clear(phrase)
		if err == nil {
			return signerOf(key)
		}
		if !isWrongPassphrase(err) {
			return nil, fmt.Errorf("open SSH key %s: %w", path, err)
		}
	}
	return nil, fmt.Errorf("SSH key %s: the passphrase was wrong %d times", path, passphraseTries)
}

func isWrongPassphrase(err error) bool {
	return bytes.Contains([]byte(err.Error()), []byte("decryption password incorrect"))
}

func signerOf(key any) (crypto.Signer, error) {
	switch k := key.(type) {
	case *ed25519.PrivateKey:
		return *k, nil
	case ed25519.PrivateKey:
		return k, nil
	case *ecdsa.PrivateKey:
		return k, sshkey.Usable(&k.PublicKey)
	case crypto.Signer:
		return nil, sshkey.Usable(k.Public())
	}
	return nil, fmt.Errorf("a %T cannot log in: use an Ed25519 or ECDSA key", key)
}

func newIdentity(source string, pub crypto.PublicKey) (Identity, error) {
	fingerprint, err := sshkey.Fingerprint(pub)
	return Identity{Source: source, Public: pub, Fingerprint: fingerprint}, err
}

func readPublic(path string) (sshkey.Public, error) {
	data, err := readBounded(path)
	if err != nil {
		return sshkey.Public{}, fmt.Errorf("read SSH public key: %w", err)
	}
	return sshkey.ParsePublic(string(data))
}

// publicComment is the comment that the .pub file has; it only helps people to
// recognise a key, so that its absence does not matter.
func publicComment(path string) string {
	p, err := readPublic(path + ".pub")
	if err != nil {
		return ""
	}
	return p.Comment
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyBytes+1))
	if err == nil && len(data) > maxKeyBytes {
		err = fmt.Errorf("%s is too large to be a key", path)
	}
	return data, err
}

// agentKeys asks ssh-agent for its Ed25519 keys. The connection stays open
// for signatures until the program ends.
func agentKeys(ctx context.Context, socket string) ([]Identity, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("ask ssh-agent for keys: %w", err)
	}
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("ask ssh-agent for keys: %w", err)
	}
	var list []Identity
	for _, s := range signers {
		signer, err := sshkey.AgentSigner(s)
		if err != nil { // RSA, ECDSA, hardware keys: TLS cannot use them from an agent
			continue
		}
		id, err := newIdentity("ssh-agent", signer.Public())
		if err != nil {
			continue
		}
		id.signer = func(context.Context) (crypto.Signer, error) { return signer, nil }
		list = append(list, id)
	}
	if len(list) == 0 {
		conn.Close()
	}
	return list, nil
}

// PublicKeys returns the user's keys as lines of authorized_keys, for a machine
// that is made for the user. Where no key can be used without asking, Wherry's
// own is made and is among them.
func PublicKeys(ctx context.Context, o Options) ([]string, error) {
	list, problems := Identities(ctx, o)
	if o.IdentityFile != "" && len(list) == 0 {
		return nil, errors.Join(problems...)
	}
	if !slices.ContainsFunc(list, func(i Identity) bool { return !i.Locked }) {
		own, err := o.createOwn()
		if err != nil {
			return nil, err
		}
		list = append(list, own)
	}
	var lines []string
	for _, id := range list {
		line, err := sshkey.AuthorizedLine(id.Public, id.Comment)
		if err != nil {
			return nil, err
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// createOwn makes Wherry's own key. Of two commands that do so at once, one
// wins and both use its key.
func (o Options) createOwn() (Identity, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Identity{}, fmt.Errorf("make a key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(key, "wherry")
	if err != nil {
		return Identity{}, fmt.Errorf("make a key: %w", err)
	}
	if err := os.MkdirAll(o.ConfigDir, 0o700); err != nil {
		return Identity{}, fmt.Errorf("make a key: %w", err)
	}
	tmp, err := os.CreateTemp(o.ConfigDir, ".key-*") // mode 0600
	if err != nil {
		return Identity{}, fmt.Errorf("make a key: %w", err)
	}
	defer os.Remove(tmp.Name())
	err = errors.Join(pem.Encode(tmp, block), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Link(tmp.Name(), o.ownKey())
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return Identity{}, fmt.Errorf("keep the new key: %w", err)
	}
	id, err := fromFile(o.ownKey(), nil)
	id.Comment = "wherry"
	return id, err
}
