// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package sshkey lets an SSH key be a TLS identity, on both sides of the API.
//
// A caller and a machine each prove who they are with a certificate that their
// own key signed; nothing in the certificate but its public key is believed.
// The key's name is the fingerprint that ssh-keygen -l prints. Only Ed25519 and
// ECDSA keys on the NIST curves can do this: RSA keys in an agent cannot make
// the signatures that TLS 1.3 asks for, and are refused with words that say so.
// Nothing here reads a file or the network.
package sshkey

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// MaxLine bounds a line of authorized_keys.
const MaxLine = 8 << 10

// Fingerprint returns the SHA256:… fingerprint of a public key.
func Fingerprint(pub crypto.PublicKey) (string, error) {
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("key fingerprint: %w", err)
	}
	return ssh.FingerprintSHA256(key), nil
}

// Public is an SSH public key that may log in.
type Public struct {
	Key         crypto.PublicKey
	Fingerprint string
	Comment     string
}

// ParsePublic reads one line of authorized_keys without options.
func ParsePublic(line string) (Public, error) {
	if len(line) > MaxLine {
		return Public{}, fmt.Errorf("SSH public key: line of %d bytes is too long", len(line))
	}
	line = strings.TrimSpace(line)
	if strings.ContainsAny(line, "\r\n") {
		return Public{}, errors.New("SSH public key: more than one line")
	}
	key, comment, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return Public{}, fmt.Errorf("SSH public key: %w", err)
	}
	if len(options) > 0 {
		return Public{}, fmt.Errorf("SSH public key: options (%s) are not supported", options[0])
	}
	pub, err := Crypto(key)
	if err != nil {
		return Public{}, err
	}
	return Public{Key: pub, Fingerprint: ssh.FingerprintSHA256(key), Comment: comment}, nil
}

// Crypto returns the standard library's form of an SSH public key, and an
// error for keys that cannot log in.
func Crypto(key ssh.PublicKey) (crypto.PublicKey, error) {
	// Keys from an agent come as bytes that nobody has looked into yet.
	parsed, err := ssh.ParsePublicKey(key.Marshal())
	if err != nil {
		return nil, fmt.Errorf("SSH public key: %w", err)
	}
	ck, ok := parsed.(ssh.CryptoPublicKey)
	if !ok {
		return nil, fmt.Errorf("%s keys cannot log in: use an Ed25519 or ECDSA key", key.Type())
	}
	pub := ck.CryptoPublicKey()
	if err := Usable(pub); err != nil {
		return nil, fmt.Errorf("%s keys cannot log in: %w", key.Type(), err)
	}
	return pub, nil
}

// Usable says whether a key can prove itself in a TLS 1.3 handshake as we do it.
func Usable(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return errors.New("malformed Ed25519 key")
		}
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() || k.Curve == elliptic.P521() {
			return nil
		}
		return errors.New("unknown elliptic curve")
	}
	return errors.New("use an Ed25519 or ECDSA key")
}

// AuthorizedLine returns a key as one line of authorized_keys.
func AuthorizedLine(pub crypto.PublicKey, comment string) (string, error) {
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("write SSH public key: %w", err)
	}
	line := string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)))
	if comment != "" {
		line += " " + strings.Join(strings.Fields(comment), " ")
	}
	return line, nil
}

// Certificate returns a TLS certificate that key signed for itself. It asks
// the key for one signature; each handshake asks for another.
func Certificate(key crypto.Signer, name string) (tls.Certificate, error) {
	if err := Usable(key.Public()); err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate for %s: %w", name, err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate for %s: %w", name, err)
	}
	// The dates are not checked: a machine's clock may be far off before it has asked for the time.
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sign certificate for %s: %w", name, err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// Peer returns the fingerprint of the key that the other side of a finished
// handshake proved to have, and "" when it showed none.
func Peer(state *tls.ConnectionState) (string, error) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return "", nil
	}
	pub := state.PeerCertificates[0].PublicKey
	if err := Usable(pub); err != nil {
		return "", err
	}
	return Fingerprint(pub)
}
