// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pe

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
)

// Bounds on what is read of a file's signatures.
const (
	maxSignatures   = 16
	maxCertificates = 32
	maxMessage      = 1 << 20
)

// Signature is one of a file's, as it stands there: nothing of it was checked yet.
type Signature struct {
	// Signer is the certificate that the signature names, Others those beside it.
	Signer *x509.Certificate
	Others []*x509.Certificate

	content    []byte // what the digest is over
	digest     []byte // of the file, by the content
	attributes []byte // as they are signed
	signature  []byte
}

// ASN.1 of PKCS #7, as far as programs are signed with it.
type contentInfo struct {
	Kind    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"explicit,tag:0"`
}

type signedMessage struct {
	Version      int
	Digests      asn1.RawValue
	Content      contentInfo
	Certificates asn1.RawValue `asn1:"optional,tag:0"`
	Revocations  asn1.RawValue `asn1:"optional,tag:1"`
	Signers      []signerInfo  `asn1:"set"`
}

type signerInfo struct {
	Version    int
	Issuer     issuerAndSerial
	Digest     algorithm
	Attributes asn1.RawValue `asn1:"optional,tag:0"`
	Cipher     algorithm
	Signature  []byte
	Unsigned   asn1.RawValue `asn1:"optional,tag:1"`
}

type issuerAndSerial struct {
	Issuer asn1.RawValue
	Serial asn1.RawValue
}

type algorithm struct {
	ID         asn1.ObjectIdentifier
	Parameters asn1.RawValue `asn1:"optional"`
}

type attribute struct {
	Kind   asn1.ObjectIdentifier
	Values asn1.RawValue
}

var (
	kindSignedData   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	kindIndirectData = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}
	kindDigest       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	kindContentType  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	kindSHA256       = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
)

// Signatures reads the file's signatures; those of a kind that is not known
// here are left out, as the firmware leaves them out.
func (p *Image) Signatures() ([]Signature, error) {
	table := p.data[len(p.data)-p.signatures:]
	var out []Signature
	for len(table) >= 8 {
		size := int(little.Uint32(table))
		if size < 8 || size > len(table) || len(out) == maxSignatures {
			return nil, fmt.Errorf("read the signatures: one has %d bytes, or there are too many", size)
		}
		if little.Uint16(table[4:]) == winRevision && little.Uint16(table[6:]) == winPKCS {
			if s, err := parseSignature(table[8:size]); err == nil {
				out = append(out, s)
			}
		}
		table = table[min(int(align(int64(size), 8)), len(table)):]
	}
	return out, nil
}

func parseSignature(message []byte) (s Signature, err error) {
	if len(message) > maxMessage {
		return s, errors.New("the signature is too large")
	}
	var outer contentInfo
	if _, err := asn1.Unmarshal(message, &outer); err != nil || !outer.Kind.Equal(kindSignedData) {
		return s, errors.New("the signature is no PKCS #7 SignedData")
	}
	var signed signedMessage
	if _, err := asn1.Unmarshal(outer.Content.Bytes, &signed); err != nil {
		return s, fmt.Errorf("the signature: %w", err)
	}
	if !signed.Content.Kind.Equal(kindIndirectData) || len(signed.Signers) != 1 {
		return s, errors.New("the signature is not about a program, or not by one signer")
	}
	if err := s.parseContent(signed.Content.Content.Bytes); err != nil {
		return s, err
	}
	return s, s.parseSigner(signed.Signers[0], signed.Certificates.Bytes)
}

// parseContent reads SpcIndirectDataContent: what is signed, and its digest.
func (s *Signature) parseContent(der []byte) error {
	var content struct {
		About   asn1.RawValue
		Message struct {
			Digest algorithm
			Value  []byte
		}
	}
	var whole asn1.RawValue
	if _, err := asn1.Unmarshal(der, &whole); err != nil {
		return fmt.Errorf("the signature's content: %w", err)
	}
	if _, err := asn1.Unmarshal(der, &content); err != nil {
		return fmt.Errorf("the signature's content: %w", err)
	}
	if !content.Message.Digest.ID.Equal(kindSHA256) {
		return errors.New("the signature's digest is not SHA-256")
	}
	s.content, s.digest = whole.Bytes, content.Message.Value
	return nil
}

func (s *Signature) parseSigner(info signerInfo, der []byte) error {
	if !info.Digest.ID.Equal(kindSHA256) || len(info.Attributes.FullBytes) == 0 {
		return errors.New("the signature is not over attributes, or not with SHA-256")
	}
	// They are signed as a SET, and stand in the message as [0].
	s.attributes = slices.Clone(info.Attributes.FullBytes)
	s.attributes[0] = 0x31
	s.signature = info.Signature
	for len(der) > 0 {
		var raw asn1.RawValue
		rest, err := asn1.Unmarshal(der, &raw)
		if err != nil || len(s.Others) == maxCertificates {
			return errors.New("the signature's certificates are damaged, or too many")
		}
		der = rest
		c, err := x509.ParseCertificate(raw.FullBytes)
		if err != nil {
			continue // it can't be the one that matters
		}
		serial, err := asn1.Marshal(c.SerialNumber)
		if err == nil && bytes.Equal(c.RawIssuer, info.Issuer.Issuer.FullBytes) && bytes.Equal(serial, info.Issuer.Serial.FullBytes) {
			s.Signer = c
		} else {
			s.Others = append(s.Others, c)
		}
	}
	if s.Signer == nil {
		return errors.New("the signature does not hold its signer's certificate")
	}
	return nil
}

// verify checks that the signer signed this digest of a file.
func (s *Signature) verify(digest [32]byte) error {
	if !bytes.Equal(s.digest, digest[:]) {
		return errors.New("the file was changed after it was signed")
	}
	content := sha256.Sum256(s.content)
	got, err := s.attribute(kindDigest)
	if err != nil {
		return err
	}
	var value []byte
	if _, err := asn1.Unmarshal(got, &value); err != nil || !bytes.Equal(value, content[:]) {
		return errors.New("the signature is about something else")
	}
	var kind asn1.ObjectIdentifier
	if got, err = s.attribute(kindContentType); err != nil {
		return err
	}
	if _, err := asn1.Unmarshal(got, &kind); err != nil || !kind.Equal(kindIndirectData) {
		return errors.New("the signature is about something of another kind")
	}
	return s.Signer.CheckSignature(x509.SHA256WithRSA, s.attributes, s.signature)
}

// attribute returns the one value of a signed attribute.
func (s *Signature) attribute(kind asn1.ObjectIdentifier) ([]byte, error) {
	var all []attribute
	if _, err := asn1.UnmarshalWithParams(s.attributes, &all, "set"); err != nil {
		return nil, fmt.Errorf("the signature's attributes: %w", err)
	}
	for _, a := range all {
		if a.Kind.Equal(kind) {
			return a.Values.Bytes, nil
		}
	}
	return nil, errors.New("the signature lacks an attribute")
}
