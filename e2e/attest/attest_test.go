// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package attest promises what a machine with a TPM can prove: the release that
// it booted, to somebody who knows its key, and to nobody who changed a byte.
package attest

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/internal/attestation"
	"wherry.example/wherry/internal/format/tcglog"
	"wherry.example/wherry/internal/host/image"
	"wherry.example/wherry/internal/vmtest"
	"wherry.example/wherry/release"
)

// build makes a signed image of this checkout that enrols its owner.
func build(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Owner"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	o := image.Options{
		Output: filepath.Join(dir, "image"), Formats: []string{"efi", "qcow2"}, Progress: func(line string) { t.Log(line) },
		SecureBootKey: filepath.Join(dir, "key"), SecureBootCertificate: filepath.Join(dir, "certificate"), SecureBootEnroll: true,
	}
	if err := errors.Join(
		os.WriteFile(o.SecureBootKey, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), 0o600),
		os.WriteFile(o.SecureBootCertificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	if _, err := image.Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	return o.Output
}

const nonce = "00112233445566778899aabbccddeeff"

// verifier checks the machine's answer with the command line.
type verifier struct {
	*vmtest.User
	t          *testing.T
	answer     string
	key        string
	manifest   string
	repository string
}

// verify returns the report and the exit code.
func (v verifier) verify(file string, more ...string) (attestation.Report, vmtest.Result) {
	v.t.Helper()
	r := v.Try(append([]string{"-o", "json", "release", "verify-attestation", file, "--machine-key", v.key}, more...)...)
	var report attestation.Report
	if err := json.Unmarshal([]byte(r.Stdout), &report); err != nil && r.Code < 2 {
		v.t.Fatalf("%v: %s%s", err, r.Stdout, r.Stderr)
	}
	return report, r
}

// refuses wants the one check to fail.
func (v verifier) refuses(name, file, check string, more ...string) {
	v.t.Helper()
	report, r := v.verify(file, more...)
	failed := report.Failed()
	if r.Code != 1 || len(failed) == 0 || failed[0].Name != check || !strings.Contains(r.Stderr, check+": ") {
		v.t.Errorf("%s: exit code %d, want %q to fail: %+v\n%s", name, r.Code, check, report.Checks, r.Stderr)
	}
}

// changed writes the answer with one of its fields changed.
func (v verifier) changed(field string, change func([]byte) []byte) string {
	v.t.Helper()
	var a map[string]any
	data, err := os.ReadFile(v.answer)
	if err == nil {
		err = json.Unmarshal(data, &a)
	}
	if err != nil {
		v.t.Fatal(err)
	}
	value, err := base64.StdEncoding.DecodeString(a[field].(string))
	if err != nil {
		v.t.Fatal(err)
	}
	a[field] = base64.StdEncoding.EncodeToString(change(value))
	file := filepath.Join(v.t.TempDir(), "changed.json")
	if data, err = json.Marshal(a); err == nil {
		err = os.WriteFile(file, data, 0o600)
	}
	if err != nil {
		v.t.Fatal(err)
	}
	return file
}

// flipDigest changes what the log says was measured first.
func (v verifier) flipDigest(b []byte) []byte {
	v.t.Helper()
	log, err := tcglog.Parse(b)
	if err != nil {
		v.t.Fatal(err)
	}
	b[bytes.Index(b, log.Events[0].Digest[:])] ^= 1
	return b
}

func flip(b []byte) []byte { b[len(b)/2] ^= 1; return b }

// A machine that booted a release proves it; what was changed, is of another
// time, machine or release is refused, and the check that fails says which.
func TestAttest(t *testing.T) {
	dir := build(t)
	v := verifier{User: vmtest.NewUser(t), t: t, answer: filepath.Join(t.TempDir(), "answer.json"), manifest: filepath.Join(dir, "manifest.json")}
	m := vmtest.Start(t, vmtest.Options{DiskImage: filepath.Join(dir, "wherry.qcow2"), SecureBoot: true, TPM: true, Config: v.Config()})
	v.Knows(m)
	v.key = m.Fingerprint()
	manifest := read(t, v.manifest)

	out := v.Run("machine", "attest", "--nonce", nonce, "--out", v.answer, "--manifest", v.manifest)
	// As words: a register's value has them in it now and then.
	if regexp.MustCompile(`\b(bad|skipped)\b`).MatchString(out) || !strings.Contains(out, "signed by CN=Owner") {
		t.Errorf("the machine's own answer:\n%s", out)
	}
	report, r := v.verify(v.answer, "--manifest", v.manifest, "--nonce", nonce)
	if r.Code != 0 || !report.Good || len(report.Checks) != 9 || !report.SecureBoot.On || report.Nonce != nonce {
		t.Errorf("good: %d, %+v", r.Code, report)
	}
	for _, p := range report.PCRs {
		if p.Index == 11 && p.Value != manifest.Boot.PCR11 {
			t.Errorf("PCR 11 is %s, published is %s", p.Value, manifest.Boot.PCR11)
		}
	}
	v.refusals(manifest)
	v.fromRepository(dir)
	if r := v.Try("machine", "attest", "--nonce", "0011"); r.Code == 0 || !strings.Contains(r.Stderr, "16 to 32 bytes") {
		t.Errorf("a short nonce: %+v", r)
	}
	v.again(m, report)
}

func read(t *testing.T, file string) release.Manifest {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := release.ParseManifest(data)
	if err != nil || manifest.Boot == nil {
		t.Fatalf("%+v, %v", manifest, err)
	}
	return manifest
}

func (v verifier) refusals(manifest release.Manifest) {
	v.t.Helper()
	right := []string{"--manifest", v.manifest, "--nonce", nonce}
	v.refuses("a changed quote", v.changed("quote", flip), "machine key", right...)
	v.refuses("a changed signature", v.changed("quoteSignature", flip), "quote", right...)
	v.refuses("another key", v.changed("attestationKey", flip), "machine key", right...)
	v.refuses("a shorter log", v.changed("eventLog", func(b []byte) []byte { return b[:len(b)/2] }), "event log", right...)
	v.refuses("a replayed answer", v.answer, "nonce", "--manifest", v.manifest, "--nonce", strings.Repeat("42", 16))
	v.refuses("a changed log", v.changed("eventLog", v.flipDigest), "event log", right...)

	other := manifest
	boot := *manifest.Boot
	boot.PCR11 = strings.Repeat("0", 64)
	other.Boot = &boot
	data, err := json.Marshal(other)
	if err != nil {
		v.t.Fatal(err)
	}
	file := filepath.Join(v.t.TempDir(), "other.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		v.t.Fatal(err)
	}
	v.refuses("another release", v.answer, "release", "--manifest", file, "--nonce", nonce)

	key := v.key
	v.key = "SHA256:" + strings.Repeat("A", 43)
	v.refuses("another machine", v.answer, "machine key", right...)
	v.key = key
	if _, r := v.verify(v.manifest, right...); r.Code != 2 {
		v.t.Errorf("a file that is none: exit code %d: %s", r.Code, r.Stderr)
	}
}

// fromRepository finds the release among the signed ones of a repository.
func (v verifier) fromRepository(dir string) {
	v.t.Helper()
	place := v.t.TempDir()
	repository, root := filepath.Join(place, "repository"), filepath.Join(place, "root.pem")
	keys := []string{"--repository", repository, "--keys", filepath.Join(place, "keys"), "--root-key", root}
	for _, c := range [][]string{{"key", "new", "root"}, {"key", "new", "targets", "snapshot", "timestamp"}, {"init", repository}} {
		v.Run(append(append([]string{"release"}, c...), keys...)...)
	}
	v.refuses("a repository without releases", v.answer, "release", "--repository", repository, "--nonce", nonce)
	v.Run(append([]string{"release", "publish", dir, "--any-root"}, keys...)...) // the machine came before the repository
	if report, r := v.verify(v.answer, "--repository", repository, "--nonce", nonce); !report.Good || report.Release == "" {
		v.t.Errorf("from a repository: %d %+v\n%s", r.Code, report, r.Stderr)
	}
}

// again starts the machine anew: its TPM is the same, and went with QEMU.
func (v verifier) again(m *vmtest.Machine, before attestation.Report) {
	v.t.Helper()
	run, _ := m.VM().Run()
	m.Stop()
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", run.TPM.PID)); run.TPM.PID == 0 || err == nil {
		time.Sleep(time.Second)
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/exe", run.TPM.PID)); run.TPM.PID == 0 || err == nil {
			v.t.Errorf("the TPM's process %d outlives the machine", run.TPM.PID)
		}
	}
	m.Start()
	v.Knows(m)
	v.Run("machine", "attest", "--manifest", v.manifest, "--attestation-key", before.AttestationKey, "--out", v.answer)
	after, _ := v.verify(v.answer, "--manifest", v.manifest)
	if !after.Good || after.Starts <= before.Starts || after.Nonce == before.Nonce {
		v.t.Errorf("after another start: %+v, before: %d starts", after, before.Starts)
	}
}
