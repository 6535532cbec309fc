// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pe

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
)

// Database is what one of the firmware's variables db and dbx holds: whom it
// trusts, or whom it no longer does.
type Database struct {
	Certificates []*x509.Certificate
	Hashes       [][32]byte // of files (Image.Digest)
	revoked      [][32]byte // of certificates' contents
}

var (
	guidSHA256     = [16]byte{0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28}
	guidX509SHA256 = [16]byte{0x92, 0xa4, 0xd2, 0x3b, 0xc0, 0x96, 0x79, 0x40, 0xb4, 0x20, 0xfc, 0xf9, 0x8e, 0xf1, 0x03, 0xed}
)

const (
	listHeader = 28
	ownerBytes = 16
	// maxEntries bounds a database; dbx of real machines holds some hundred.
	maxEntries = 1 << 14
)

// ParseDatabase reads the contents of db or dbx. Entries of kinds that it does
// not know say nothing about a file of ours and are left out.
func ParseDatabase(data []byte) (*Database, error) {
	d := &Database{}
	for len(data) > 0 {
		if len(data) < listHeader {
			return nil, errors.New("read the firmware's keys: a list is cut off")
		}
		size, header, entry := int64(little.Uint32(data[16:])), int64(little.Uint32(data[20:])), int64(little.Uint32(data[24:]))
		if size < listHeader+header || size > int64(len(data)) || entry <= ownerBytes {
			return nil, fmt.Errorf("read the firmware's keys: a list of %d bytes with entries of %d", size, entry)
		}
		kind, entries := [16]byte(data), data[listHeader+header:size]
		for int64(len(entries)) >= entry {
			if len(d.Certificates)+len(d.Hashes)+len(d.revoked) == maxEntries {
				return nil, errors.New("read the firmware's keys: there are too many")
			}
			d.add(kind, entries[ownerBytes:entry])
			entries = entries[entry:]
		}
		data = data[size:]
	}
	return d, nil
}

func (d *Database) add(kind [16]byte, value []byte) {
	switch {
	case kind == guidX509:
		if c, err := x509.ParseCertificate(value); err == nil {
			d.Certificates = append(d.Certificates, c)
		}
	case kind == guidSHA256 && len(value) == 32:
		d.Hashes = append(d.Hashes, [32]byte(value))
	case kind == guidX509SHA256 && len(value) >= 32:
		d.revoked = append(d.revoked, [32]byte(value))
	}
}

// Check tells whether firmware that allows db and forbids dbx starts the file,
// and by whose signature: nil when the file is allowed by its hash. Like the
// firmware it does not look at the time: a machine's clock may be wrong.
func (p *Image) Check(db, dbx *Database) (*x509.Certificate, error) {
	digest := p.Digest()
	if dbx.hasHash(digest) {
		return nil, errors.New("the firmware forbids this very file (dbx)")
	}
	if db.hasHash(digest) {
		return nil, nil
	}
	signatures, err := p.Signatures()
	if err != nil {
		return nil, err
	}
	if len(signatures) == 0 {
		return nil, errors.New("it has no signature")
	}
	var reasons error
	for _, s := range signatures {
		err := s.allowed(digest, db, dbx)
		if err == nil {
			return s.Signer, nil
		}
		reasons = errors.Join(reasons, fmt.Errorf("signature of %q: %w", Subject(s.Signer), err))
	}
	return nil, reasons
}

func (s *Signature) allowed(digest [32]byte, db, dbx *Database) error {
	if err := s.verify(digest); err != nil {
		return err
	}
	chain := s.chain()
	for _, c := range chain {
		if dbx.holds(c) {
			return fmt.Errorf("the firmware no longer trusts %q (dbx)", Subject(c))
		}
	}
	for _, c := range chain {
		if db.holds(c) || db.issued(c) {
			return nil
		}
	}
	return errors.New("the firmware does not know the key (it is not in db)")
}

// maxChain bounds how many certificates lead from the signer upwards.
const maxChain = 8

// chain is the signer and, of the certificates that the signature brings, those
// that vouch for it, each checked.
func (s *Signature) chain() []*x509.Certificate {
	out := []*x509.Certificate{s.Signer}
	for len(out) < maxChain {
		last, found := out[len(out)-1], false
		for _, c := range s.Others {
			if !bytes.Equal(c.Raw, last.Raw) && issues(c, last) {
				out, found = append(out, c), true
				break
			}
		}
		if !found {
			break
		}
	}
	return out
}

// issues tells whether parent signed child. Which kinds of use a certificate
// names does not matter to firmware.
func issues(parent, child *x509.Certificate) bool {
	return bytes.Equal(parent.RawSubject, child.RawIssuer) &&
		parent.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature) == nil
}

func (d *Database) hasHash(digest [32]byte) bool {
	if d == nil {
		return false
	}
	for _, h := range d.Hashes {
		if h == digest {
			return true
		}
	}
	return false
}

// holds tells whether the certificate itself is in the database.
func (d *Database) holds(c *x509.Certificate) bool {
	if d == nil {
		return false
	}
	for _, known := range d.Certificates {
		if bytes.Equal(known.Raw, c.Raw) {
			return true
		}
	}
	content := sha256.Sum256(c.RawTBSCertificate)
	for _, h := range d.revoked {
		if h == content {
			return true
		}
	}
	return false
}

func (d *Database) issued(c *x509.Certificate) bool {
	if d == nil {
		return false
	}
	for _, known := range d.Certificates {
		if issues(known, c) {
			return true
		}
	}
	return false
}

// Subject is how people name a certificate.
func Subject(c *x509.Certificate) string {
	if name := c.Subject.String(); name != "" {
		return name
	}
	return "a certificate without a name"
}
