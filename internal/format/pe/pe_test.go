// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pe

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/internal/format/pe/petest"
)

func stub() []byte { return petest.Stub(".text", ".sbat") }

func parse(t testing.TB, data []byte) *Image {
	t.Helper()
	p, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// newSigner returns a signer with the PEM of its key and certificate.
func newSigner(t testing.TB, name string) (s *Signer, keyPEM, certificatePEM []byte) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(300), Subject: pkix.Name{CommonName: name}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	certificatePEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if s, err = ParseSigner(keyPEM, certificatePEM); err != nil {
		t.Fatal(err)
	}
	return s, keyPEM, certificatePEM
}

func file(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func judge(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%s is needed as a judge: run tools/setup.sh test", name)
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	return string(out), err
}

var added = []Added{
	{".osrel", []byte("ID=wherry\n")},
	{".linux", bytes.Repeat([]byte("kernel"), 3000)},
	{".initrd", []byte("x")},
}

func appended(t testing.TB) []byte {
	t.Helper()
	out, err := parse(t, stub()).Append(added...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// objdump sees the sections, at addresses of whole pages, with what was put in.
func TestAppend(t *testing.T) {
	out := appended(t)
	path := file(t, "x.efi", out)
	listing, err := judge(t, "objdump", "-h", path)
	if err != nil {
		t.Fatal(err, listing)
	}
	for _, s := range added {
		row := regexp.MustCompile(fmt.Sprintf(`\%s +%08x  [0-9a-f]{13}000 `, s.Name, len(s.Data)))
		if !row.MatchString(listing) {
			t.Errorf("objdump does not show %s:\n%s", s.Name, listing)
		}
		got := filepath.Join(t.TempDir(), "section")
		if text, err := judge(t, "objcopy", "-O", "binary", "--only-section="+s.Name, path, got); err != nil {
			t.Fatal(err, text)
		}
		if b, err := os.ReadFile(got); err != nil || !bytes.HasPrefix(b, s.Data) {
			t.Errorf("section %s came out as %d bytes, %v", s.Name, len(b), err)
		}
		if !bytes.Equal(parse(t, out).Data(s.Name), s.Data) {
			t.Errorf("section %s reads differently", s.Name)
		}
	}
	if p := parse(t, out); p.u32(atChecksum) != 0 || int(p.u32(atImageBytes)) != 0x2000+0x1000+0x1000+0x5000+0x1000 {
		t.Errorf("checksum %d, image of %#x bytes", p.u32(atChecksum), p.u32(atImageBytes))
	}
}

func TestAppendRefuses(t *testing.T) {
	p := parse(t, stub())
	many := make([]Added, 16)
	for i := range many {
		many[i] = Added{fmt.Sprintf(".s%d", i), []byte("x")}
	}
	for name, sections := range map[string][]Added{
		"too many":    many,
		"name":        {{".toolongname", []byte("x")}},
		"empty":       {{".x", nil}},
		"there twice": {{".sbat", []byte("x")}},
	} {
		if _, err := p.Append(sections...); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Two programs that are not ours accept the signature, of that key only, and
// find the same digest.
func TestSign(t *testing.T) {
	s, _, good := newSigner(t, "Good")
	_, _, evil := newSigner(t, "Evil")
	for name, data := range map[string][]byte{"a file": appended(t), "an odd length": append(appended(t), 1, 2, 3)} {
		p := parse(t, data)
		signed, err := p.Sign(s)
		if err != nil {
			t.Fatal(err)
		}
		path := file(t, "x.efi", signed)
		if out, err := judge(t, "sbverify", "--cert", file(t, "good", good), path); err != nil || !strings.Contains(out, "Signature verification OK") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if out, err := judge(t, "sbverify", "--cert", file(t, "evil", evil), path); err == nil {
			t.Errorf("%s: accepted with another's certificate:\n%s", name, out)
		}
		out, err := judge(t, "osslsigncode", "verify", "-CAfile", file(t, "good", good), "-in", path)
		if want := fmt.Sprintf("%X", p.Digest()); err != nil || strings.Count(out, want) != 2 {
			t.Errorf("%s: %v, want the digest %s twice:\n%s", name, err, want, out)
		}
		tampered := bytes.Clone(signed)
		tampered[0x1000] ^= 1
		if out, err := judge(t, "sbverify", "--cert", file(t, "good", good), file(t, "x.efi", tampered)); err == nil {
			t.Errorf("%s: tampered and accepted:\n%s", name, out)
		}
		again, err := parse(t, signed).Sign(s)
		if err != nil || !bytes.Equal(again, signed) {
			t.Errorf("%s: signing what is signed gives other bytes, %v", name, err)
		}
	}
}

func TestParseSigner(t *testing.T) {
	_, key, certificate := newSigner(t, "A")
	_, otherKey, _ := newSigner(t, "B")
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecDER, err := x509.MarshalPKCS8PrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ key, certificate []byte }{
		"another key":    {otherKey, certificate},
		"no key":         {nil, certificate},
		"no certificate": {key, nil},
		"swapped":        {certificate, key},
		"elliptic":       {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: ecDER}), certificate},
		"broken":         {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}), certificate},
	} {
		if _, err := ParseSigner(c.key, c.certificate); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// openssl accepts the signature of a variable, over the bytes that UEFI names.
func TestAuthenticatedVariable(t *testing.T) {
	s, _, certificate := newSigner(t, "Owner")
	owner := [16]byte{1, 2, 3}
	at := time.Date(2026, 11, 20, 1, 2, 3, 0, time.UTC)
	for _, v := range []Variable{PK, KEK, DB} {
		auth, err := s.AuthenticatedVariable(v, s.SignatureList(owner), at)
		if err != nil {
			t.Fatal(err)
		}
		size := little.Uint32(auth[16:])
		message, list := auth[16+24:16+size], auth[16+size:]
		vendor := map[Variable]string{
			PK: "8be4df61-93ca-11d2-aa0d-00e098032b8c", KEK: "8be4df61-93ca-11d2-aa0d-00e098032b8c", DB: "d719b2cb-3d3a-4596-a3bc-dad00e67656f",
		}[v]
		if !bytes.Equal(list, s.SignatureList(owner)) {
			t.Errorf("%s: the list is not the variable's contents", v)
		}
		signed := variableDigested(t, string(v), vendor, auth[:16], list)
		wrapped := sequence(oidSignedData, tlv(0xa0, message))
		out, err := judge(t, "openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", file(t, "p7", wrapped),
			"-content", file(t, "content", signed), "-CAfile", file(t, "c.pem", certificate), "-purpose", "any", "-out", "/dev/null")
		if err != nil {
			t.Errorf("%s: %v: %s", v, err, out)
		}
	}
	if got := fmt.Sprintf("%x", timestamp(at)); got != "ea070b14010203000000000000000000" {
		t.Errorf("the time is %s", got)
	}
}

// variableDigested builds what UEFI 2.10, 8.2.2, has signed, from the GUID's text.
func variableDigested(t *testing.T, name, vendor string, stamp, list []byte) []byte {
	t.Helper()
	var out []byte
	for _, c := range name {
		out = append(out, byte(c), 0)
	}
	var a uint32
	var b, c uint16
	var d, e []byte
	if _, err := fmt.Sscanf(vendor, "%08x-%04x-%04x-%04x-%012x", &a, &b, &c, &d, &e); err != nil {
		t.Fatal(err)
	}
	out = little.AppendUint32(out, a)
	out = little.AppendUint16(little.AppendUint16(out, b), c)
	out = append(append(out, d...), e...)
	out = append(out, 0x27, 0, 0, 0)
	return append(append(out, stamp...), list...)
}

func TestParseRefuses(t *testing.T) {
	const o = petest.Optional
	for name, change := range map[string]func([]byte) []byte{
		"empty":                  func([]byte) []byte { return nil },
		"short":                  func(b []byte) []byte { return b[:0x90] },
		"no MZ":                  func(b []byte) []byte { b[0] = 0; return b },
		"header elsewhere":       func(b []byte) []byte { little.PutUint32(b[newHeaderAt:], 0xfffffff0); return b },
		"32 bits":                func(b []byte) []byte { little.PutUint16(b[o:], 0x10b); return b },
		"other machine":          func(b []byte) []byte { b[0x84] = 0; return b },
		"no sections":            func(b []byte) []byte { b[0x86] = 0; return b },
		"too many sections":      func(b []byte) []byte { b[0x86] = 90; return b },
		"directories":            func(b []byte) []byte { b[o+atDirectories] = 200; return b },
		"alignment":              func(b []byte) []byte { b[o+atFileAlign+1] = 3; return b },
		"headers":                func(b []byte) []byte { b[o+atHeaderBytes+2] = 1; return b },
		"section outside":        func(b []byte) []byte { b[o+optionalFixed+128+18] = 1; return b },
		"gap":                    func(b []byte) []byte { b[o+optionalFixed+128+21] += 2; return b },
		"overlap":                func(b []byte) []byte { b[o+optionalFixed+128+sectionBytes+21] -= 2; return b },
		"signatures in the file": func(b []byte) []byte { b[o+optionalFixed+33], b[o+optionalFixed+36] = 4, 8; return b },
	} {
		if _, err := Parse(change(stub())); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(stub())
	f.Add(appended(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse(data)
		if err != nil {
			return
		}
		p.Digest()
		out, err := p.Append(Added{".fuzz", []byte("x")})
		if err != nil {
			return
		}
		q, err := Parse(out)
		if err != nil {
			t.Fatalf("what Append made does not parse: %v", err)
		}
		if string(q.Data(".fuzz")) != "x" {
			t.Fatal("what was appended is not there")
		}
	})
}
