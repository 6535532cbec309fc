// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pe

import (
	"bytes"
	"crypto/sha256"
	"encoding/asn1"
	"slices"
)

// tlv is one DER value: tag, length, contents.
func tlv(tag byte, parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	out := []byte{tag}
	if n := len(body); n < 0x80 {
		out = append(out, byte(n))
	} else {
		var length []byte
		for ; n > 0; n >>= 8 {
			length = append([]byte{byte(n)}, length...)
		}
		out = append(append(out, 0x80|byte(len(length))), length...)
	}
	return append(out, body...)
}

func sequence(parts ...[]byte) []byte { return tlv(0x30, parts...) }

// set is DER's SET OF, whose members are in order.
func set(parts ...[]byte) []byte {
	slices.SortFunc(parts, bytes.Compare)
	return tlv(0x31, parts...)
}

func oid(arcs ...int) []byte {
	b, err := asn1.Marshal(asn1.ObjectIdentifier(arcs))
	if err != nil {
		panic(err) // a constant of this file is wrong
	}
	return b
}

var (
	oidSignedData   = oid(1, 2, 840, 113549, 1, 7, 2)
	oidData         = oid(1, 2, 840, 113549, 1, 7, 1)
	oidContentType  = oid(1, 2, 840, 113549, 1, 9, 3)
	oidDigest       = oid(1, 2, 840, 113549, 1, 9, 4)
	oidRSA          = oid(1, 2, 840, 113549, 1, 1, 1)
	oidSHA256       = oid(2, 16, 840, 1, 101, 3, 4, 2, 1)
	oidIndirectData = oid(1, 3, 6, 1, 4, 1, 311, 2, 1, 4)
	oidPEImage      = oid(1, 3, 6, 1, 4, 1, 311, 2, 1, 15)

	null            = []byte{5, 0}
	one             = []byte{2, 1, 1}
	algorithmSHA256 = sequence(oidSHA256, null)
)

// signedContent is what a SignedData message is about.
type signedContent struct {
	kind     []byte
	content  []byte // nil: it is not part of the message
	digested []byte
	// attributes: sign the digest together with the content's type. Programs
	// are signed so; variables are not.
	attributes bool
}

// signedData makes a PKCS #7 SignedData of one signer with its certificate.
func (s *Signer) signedData(c signedContent) ([]byte, error) {
	digest := sha256.Sum256(c.digested)
	var attributes []byte
	if c.attributes {
		all := set(sequence(oidContentType, set(c.kind)), sequence(oidDigest, set(tlv(4, digest[:]))))
		digest = sha256.Sum256(all)
		attributes = append([]byte{0xa0}, all[1:]...)
	}
	signature, err := s.sign(digest)
	if err != nil {
		return nil, err
	}
	serial, err := asn1.Marshal(s.Certificate.SerialNumber)
	if err != nil {
		return nil, err
	}
	info := sequence(c.kind)
	if c.content != nil {
		info = sequence(c.kind, tlv(0xa0, c.content))
	}
	signer := sequence(one, sequence(s.Certificate.RawIssuer, serial), algorithmSHA256, attributes, sequence(oidRSA, null), tlv(4, signature))
	return sequence(one, set(algorithmSHA256), info, tlv(0xa0, s.Certificate.Raw), set(signer)), nil
}
