// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package sshkey

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/ssh"
)

// AgentSigner makes a key that lives in an SSH agent a crypto.Signer. Only
// Ed25519 keys can: the agent hashes for ECDSA by itself, where TLS hands over
// a hash that is made already.
func AgentSigner(signer ssh.Signer) (crypto.Signer, error) {
	pub, err := Crypto(signer.PublicKey())
	if err != nil {
		return nil, err
	}
	key, ok := pub.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%s keys cannot log in from an agent: name the key's file with --identity", signer.PublicKey().Type())
	}
	return agentSigner{signer, key}, nil
}

type agentSigner struct {
	ssh ssh.Signer
	pub ed25519.PublicKey
}

func (a agentSigner) Public() crypto.PublicKey { return a.pub }

// Sign signs a whole message, as Ed25519 does: opts names no hash.
func (a agentSigner) Sign(rand io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != crypto.Hash(0) {
		return nil, errors.New("sign with SSH agent: a hash was asked for, Ed25519 has none")
	}
	sig, err := a.ssh.Sign(rand, message)
	if err != nil {
		return nil, fmt.Errorf("sign with SSH agent (is it locked, or did you refuse?): %w", err)
	}
	if sig.Format != ssh.KeyAlgoED25519 || !ed25519.Verify(a.pub, message, sig.Blob) {
		return nil, errors.New("sign with SSH agent: it returned a signature that is not right")
	}
	return sig.Blob, nil
}
