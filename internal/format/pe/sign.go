// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pe

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
)

// Signer is a key with its certificate.
type Signer struct {
	Certificate *x509.Certificate
	key         *rsa.PrivateKey
}

// ParseSigner reads a private key and its certificate from PEM. Firmware
// understands RSA of 2048 bits and more, and nothing else everywhere.
func ParseSigner(keyPEM, certificatePEM []byte) (*Signer, error) {
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(certificatePEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("read the certificate: it is not PEM of a CERTIFICATE")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	if !key.PublicKey.Equal(certificate.PublicKey) {
		return nil, errors.New("the certificate is not that of the key")
	}
	return &Signer{Certificate: certificate, key: key}, nil
}

func parseKey(keyPEM []byte) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, errors.New("read the key: it is not PEM")
	}
	var parsed any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("read the key: it is a %s; use an unencrypted RSA key in PKCS #8 or #1", block.Type)
	}
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok || key.N.BitLen() < 2048 {
		return nil, errors.New("read the key: firmware wants RSA of 2048 bits or more")
	}
	return key, nil
}

// Digest is the SHA-256 that a signature is about: the file without its
// checksum and its signatures, padded to eight bytes as Sign pads it.
func (p *Image) Digest() [32]byte {
	d := p.data[:len(p.data)-p.signatures]
	h := sha256.New()
	h.Write(d[:p.optional+atChecksum])
	h.Write(d[p.optional+atChecksum+4 : p.securityAt()])
	h.Write(d[p.securityAt()+directoryBytes:])
	h.Write(make([]byte, align(int64(len(d)), 8)-int64(len(d))))
	return [32]byte(h.Sum(nil))
}

const (
	winRevision = 0x200
	winPKCS     = 2 // certificate type: PKCS #7 SignedData
)

// Sign returns the file with one signature; those it had are left out.
func (p *Image) Sign(s *Signer) ([]byte, error) {
	digest := p.Digest()
	// SpcIndirectDataContent: a PE image, about which nothing more is said, and its digest.
	content := [][]byte{
		sequence(oidPEImage, sequence([]byte{3, 1, 0}, tlv(0xa0, tlv(0xa2, tlv(0x80))))),
		sequence(algorithmSHA256, tlv(4, digest[:])),
	}
	signed, err := s.signedData(signedContent{
		kind: oidIndirectData, content: sequence(content...), digested: bytes.Join(content, nil), attributes: true,
	})
	if err != nil {
		return nil, fmt.Errorf("sign a PE file: %w", err)
	}
	message := sequence(oidSignedData, tlv(0xa0, signed))
	entry := make([]byte, align(int64(8+len(message)), 8))
	little.PutUint32(entry, uint32(len(entry)))
	little.PutUint16(entry[4:], winRevision)
	little.PutUint16(entry[6:], winPKCS)
	copy(entry[8:], message)

	out := slices.Clone(p.data[:len(p.data)-p.signatures])
	out = append(out, make([]byte, align(int64(len(out)), 8)-int64(len(out)))...)
	little.PutUint32(out[p.securityAt():], uint32(len(out)))
	little.PutUint32(out[p.securityAt()+4:], uint32(len(entry)))
	clear(out[p.optional+atChecksum:][:4])
	return append(out, entry...), nil
}

// sign makes a signature over a SHA-256 digest.
func (s *Signer) sign(digest [32]byte) ([]byte, error) {
	return rsa.SignPKCS1v15(nil, s.key, crypto.SHA256, digest[:])
}
