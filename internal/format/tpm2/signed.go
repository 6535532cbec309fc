// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package tpm2

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
)

// Attributes of a key, as far as they matter here.
const (
	attrFixedTPM            = 1 << 1
	attrFixedParent         = 1 << 4
	attrSensitiveDataOrigin = 1 << 5
	attrUserWithAuth        = 1 << 6
	attrNoDA                = 1 << 10
	attrRestricted          = 1 << 16
	attrDecrypt             = 1 << 17
	attrSign                = 1 << 18
)

// Key is the public part of an attestation key.
type Key struct {
	ECDSA *ecdsa.PublicKey
	// QualifiedName is what a TPM calls the key in what it signs with it.
	QualifiedName []byte
}

// ParseKey reads a public area, and refuses keys that a TPM would also let
// sign something that it did not make itself.
func ParseKey(public []byte) (Key, error) {
	r := reader{b: public}
	r.want("the key's kind", algECC)
	r.want("its hash", algSHA256)
	attributes := r.u32()
	r.sized(sha256.Size) // the policy for who may use it
	r.want("its encryption", algNull)
	r.want("its signature", algECDSA)
	r.want("its signature's hash", algSHA256)
	r.want("its curve", curveP256)
	r.want("its derivation", algNull)
	x, y := r.sized(32), r.sized(32)
	if err := r.end(); err != nil {
		return Key{}, fmt.Errorf("attestation key: %w", err)
	}
	const needs = attrFixedTPM | attrFixedParent | attrSensitiveDataOrigin | attrRestricted | attrSign
	if attributes&needs != needs || attributes&attrDecrypt != 0 {
		return Key{}, fmt.Errorf("attestation key: its attributes 0x%x allow more than signing what the TPM made", attributes)
	}
	point := make([]byte, 65)
	point[0] = 4
	copy(point[33-len(x):], x)
	copy(point[65-len(y):], y)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return Key{}, fmt.Errorf("attestation key: %w", err)
	}
	return Key{ECDSA: key, QualifiedName: qualifiedName(public)}, nil
}

// qualifiedName is the name of a primary key under the endorsement hierarchy.
func qualifiedName(public []byte) []byte {
	digest := sha256.Sum256(public)
	name := append(u16(algSHA256), digest[:]...)
	qualified := sha256.Sum256(append(u32(handleEndorsement), name...))
	return append(u16(algSHA256), qualified[:]...)
}

// Quote is what a TPM says when it quotes registers.
type Quote struct {
	Nonce    []byte
	Selected Selection
	Digest   []byte // SHA-256 of the selected registers' values in their order
	Signer   []byte // qualified name of the key
	// Resets counts the starts of the machine, Restarts those of them that woke
	// it; Clock are the TPM's milliseconds. Firmware is the TPM's own version.
	Clock            uint64
	Resets, Restarts uint32
	Firmware         uint64
}

const (
	magicGenerated = 0xff544347
	typeQuote      = 0x8018
)

// ParseQuote reads a TPMS_ATTEST that is a quote.
func ParseQuote(quoted []byte) (Quote, error) {
	r := reader{b: quoted}
	if magic := r.u32(); r.err == nil && magic != magicGenerated {
		return Quote{}, errors.New("quote: no TPM made it")
	}
	r.want("its kind", typeQuote)
	q := Quote{Signer: r.sized(66), Nonce: r.sized(66), Clock: r.u64(), Resets: r.u32(), Restarts: r.u32()}
	r.u8() // whether the clock survived a power cut
	q.Firmware, q.Selected, q.Digest = r.u64(), r.selection(), r.sized(64)
	if err := r.end(); err != nil {
		return Quote{}, fmt.Errorf("quote: %w", err)
	}
	return q, nil
}

// Verify checks that the key signed a quote, and returns what it says.
func (k Key) Verify(quoted, signature []byte) (Quote, error) {
	sig := reader{b: signature}
	sig.want("the signature's kind", algECDSA)
	sig.want("its hash", algSHA256)
	r, s := sig.sized(32), sig.sized(32)
	if err := sig.end(); err != nil {
		return Quote{}, fmt.Errorf("quote: %w", err)
	}
	digest := sha256.Sum256(quoted)
	if !ecdsa.Verify(k.ECDSA, digest[:], new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)) {
		return Quote{}, errors.New("quote: the attestation key did not sign it")
	}
	q, err := ParseQuote(quoted)
	if err != nil {
		return q, err
	}
	if !bytes.Equal(q.Signer, k.QualifiedName) {
		return q, errors.New("quote: it names another key than the one that signed it")
	}
	return q, nil
}

// DigestOf is what a quote has as digest of these values; false when one is missing.
func (s Selection) DigestOf(values map[int][32]byte) ([32]byte, bool) {
	h := sha256.New()
	for _, n := range s.List() {
		v, ok := values[n]
		if !ok {
			return [32]byte{}, false
		}
		h.Write(v[:])
	}
	return [32]byte(h.Sum(nil)), true
}
