// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pe

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func signed(t testing.TB, s *Signer) []byte {
	t.Helper()
	out, err := parse(t, appended(t)).Sign(s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func database(t testing.TB, lists ...[]byte) *Database {
	t.Helper()
	d, err := ParseDatabase(bytes.Join(lists, nil))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// list is a signature list of one entry.
func list(kind [16]byte, value []byte) []byte {
	out := little.AppendUint32(append([]byte{}, kind[:]...), uint32(28+16+len(value)))
	out = little.AppendUint32(out, 0)
	out = little.AppendUint32(out, uint32(16+len(value)))
	return append(append(out, make([]byte, 16)...), value...)
}

// issued makes a signer whose certificate another one signed.
func issued(t testing.TB, by *Signer, name string) *Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(5), Subject: pkix.Name{CommonName: name}, NotAfter: time.Unix(1<<31, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, by.Certificate, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseSigner(
		pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}),
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCheck(t *testing.T) {
	owner, _, _ := newSigner(t, "Owner")
	evil, _, _ := newSigner(t, "Evil")
	leaf := issued(t, owner, "Leaf")
	good := signed(t, owner)
	tampered := bytes.Clone(good)
	tampered[bytes.Index(good, []byte("kernelkernel"))] ^= 1
	digest := parse(t, good).Digest()
	tbs := sha256.Sum256(owner.Certificate.RawTBSCertificate)
	db, empty := database(t, owner.SignatureList([16]byte{1})), database(t)
	for _, c := range []struct {
		name    string
		file    []byte
		db, dbx *Database
		signer  string
		err     string
	}{
		{"signed by the owner", good, db, empty, "CN=Owner", ""},
		{"signed by somebody whom the owner vouches for", signed(t, leaf), db, empty, "CN=Leaf", ""},
		{"without dbx", good, db, nil, "CN=Owner", ""},
		{"allowed by its hash", appended(t), database(t, list(guidSHA256, hashOf(t, appended(t)))), empty, "", ""},
		{"two keys in db", good, database(t, evil.SignatureList([16]byte{2}), owner.SignatureList([16]byte{1})), empty, "CN=Owner", ""},

		{"not signed", appended(t), db, empty, "", "no signature"},
		{"tampered", tampered, db, empty, "", "changed after it was signed"},
		{"signed by somebody else", signed(t, evil), db, empty, "", "does not know the key"},
		{"no keys at all", good, empty, empty, "", "does not know the key"},
		{"forbidden by its hash", good, db, database(t, list(guidSHA256, digest[:])), "", "forbids this very file"},
		{"forbidden by its key", good, db, database(t, owner.SignatureList([16]byte{1})), "", "no longer trusts"},
		{"forbidden by its key's hash", good, db, database(t, list(guidX509SHA256, append(tbs[:], make([]byte, 16)...))), "", "no longer trusts"},
	} {
		who, err := parse(t, c.file).Check(c.db, c.dbx)
		name := ""
		if who != nil {
			name = Subject(who)
		}
		if name != c.signer || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: signer %q, error %v", c.name, name, err)
		}
	}
}

func hashOf(t testing.TB, file []byte) []byte {
	h := parse(t, file).Digest()
	return h[:]
}

// Signatures that others make are read as well, and one of theirs beside ours.
func TestSignaturesOfOthers(t *testing.T) {
	owner, key, certificate := newSigner(t, "Owner")
	plain := file(t, "plain.efi", appended(t))
	keyFile, certificateFile := file(t, "key", key), file(t, "certificate", certificate)
	db := database(t, owner.SignatureList([16]byte{1}))
	for _, command := range [][]string{
		{"sbsign", "--key", keyFile, "--cert", certificateFile, "--output"},
		{"osslsigncode", "sign", "-h", "sha256", "-key", keyFile, "-certs", certificateFile, "-in", plain, "-out"},
	} {
		to := filepath.Join(t.TempDir(), "signed")
		args := append(command[1:], to)
		if command[0] == "sbsign" {
			args = append(args, plain)
		}
		if out, err := judge(t, command[0], args...); err != nil {
			t.Fatal(err, out)
		}
		data, err := os.ReadFile(to)
		if err != nil {
			t.Fatal(err)
		}
		if who, err := parse(t, data).Check(db, nil); err != nil || Subject(who) != "CN=Owner" {
			t.Errorf("%s: %v", command[0], err)
		}
	}
	// A second signature, by a key that the firmware does not know, comes first.
	evil, _, _ := newSigner(t, "Evil")
	twice := file(t, "twice.efi", signed(t, evil))
	to := filepath.Join(t.TempDir(), "signed")
	if out, err := judge(t, "sbsign", "--key", keyFile, "--cert", certificateFile, "--output", to, twice); err != nil {
		t.Fatal(err, out)
	}
	data, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	both, err := parse(t, data).Signatures()
	if err != nil || len(both) != 2 || both[0].Signer.Subject.CommonName != "Evil" {
		t.Fatalf("%d signatures, %v", len(both), err)
	}
	if who, err := parse(t, data).Check(db, nil); err != nil || Subject(who) != "CN=Owner" {
		t.Errorf("the second signature: %v", err)
	}
}

func TestParseDatabaseRefuses(t *testing.T) {
	owner, _, _ := newSigner(t, "Owner")
	whole := owner.SignatureList([16]byte{1})
	for at := 1; at < len(whole); at += 13 {
		if d, err := ParseDatabase(whole[:at]); err == nil {
			t.Fatalf("cut at %d: %+v", at, d)
		}
	}
	if d := database(t, list([16]byte{9}, []byte("another kind")), whole); len(d.Certificates) != 1 {
		t.Errorf("a list of another kind: %+v", d)
	}
	zero := bytes.Clone(whole)
	little.PutUint32(zero[24:], 0) // entries of no size would never end
	if _, err := ParseDatabase(zero); err == nil {
		t.Error("entries of no size")
	}
}

// Whatever stands there, nothing but a whole signature of a known key is one.
func FuzzCheck(f *testing.F) {
	owner, _, _ := newSigner(f, "Owner")
	good := signed(f, owner)
	db := database(f, owner.SignatureList([16]byte{1}))
	want := parse(f, good).Digest()
	for at := len(good) - 1200; at < len(good); at += 100 {
		f.Add(uint32(at), byte(1))
	}
	f.Fuzz(func(t *testing.T, at uint32, flip byte) {
		data := bytes.Clone(good)
		data[int(at)%len(data)] ^= flip
		p, err := Parse(data)
		if err != nil {
			return
		}
		if _, err := p.Check(db, nil); err == nil && p.Digest() != want {
			t.Error("a file with another digest is accepted")
		}
	})
}
