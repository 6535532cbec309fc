// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/attestation"
	"wherry.example/wherry/internal/format/tcglog"
	"wherry.example/wherry/internal/format/tpm2"
	"wherry.example/wherry/internal/linux/tpm"
	"wherry.example/wherry/internal/sshkey"
)

// rig is a machine that booted the one release, and what its verifier knows.
type rig struct {
	tpm      *software
	key      ed25519.PrivateKey
	attester *Attester
	good     *wherryv1.Attestation
	expect   attestation.Expect
}

var (
	signer  = []byte("a certificate that nobody looks into")
	loader  = sha256.Sum256([]byte("loader"))
	program = sha256.Sum256([]byte("OS file"))
)

// newRig lets firmware measure Secure Boot (on or off), a loader and a release.
func newRig(t *testing.T, secure byte) *rig {
	t.Helper()
	r := &rig{tpm: newTPM(t)}
	r.tpm.measureData(t, 0, tcglog.Action, []byte("firmware"))
	r.tpm.measureData(t, 7, tcglog.VariableConfig, variable("SecureBoot", []byte{secure}))
	r.tpm.measureData(t, 7, tcglog.Separator, make([]byte, 4))
	r.tpm.measureData(t, 7, tcglog.VariableAuthority, variable("db", append(make([]byte, 16), signer...)))
	r.tpm.measureData(t, 4, tcglog.EFIAction, []byte("Calling EFI Application from Boot Option"))
	r.tpm.measure(t, 4, tcglog.BootServicesApp, loader, []byte("a path"))
	r.tpm.measure(t, 4, tcglog.BootServicesApp, program, []byte("a path"))
	section := sha256.Sum256([]byte(".linux\x00"))
	r.tpm.measure(t, 11, tcglog.IPL, section, []byte(".linux"))
	_, r.key, _ = ed25519.GenerateKey(rand.Reader) // never fails
	fingerprint, err := sshkey.Fingerprint(r.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	sum, pcr11 := sha256.Sum256(signer), sha256.Sum256(append(make([]byte, 32), section[:]...))
	r.expect = attestation.Expect{MachineKey: fingerprint, Nonce: bytes.Repeat([]byte{7}, 32), Releases: []attestation.Release{
		{Name: "1.0.0", PCR11: hex.EncodeToString(pcr11[:]), SignedBy: hex.EncodeToString(sum[:])},
	}}
	r.attest(t)
	return r
}

// attest asks the machine, as it is now.
func (r *rig) attest(t *testing.T) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(log, r.tpm.log.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	r.attester = New(Options{Key: r.key, Version: "1.0.0", Open: r.tpm.open, EventLog: log})
	var err error
	if r.good, err = r.attester.Attest(t.Context(), r.expect.Nonce); err != nil {
		t.Fatal(err)
	}
}

// bind signs again, as somebody can who stole the machine's key.
func (r *rig) bind(a *wherryv1.Attestation) {
	a.Binding = ed25519.Sign(r.key, attestation.Statement(a.AttestationKey, a.Quote))
}

// failed are the names of the bad checks.
func failed(r attestation.Report) string {
	var names []string
	for _, c := range r.Failed() {
		names = append(names, c.Name)
	}
	return strings.Join(names, ",")
}

func TestGood(t *testing.T) {
	r := newRig(t, 1)
	report := attestation.Verify(r.good, r.expect)
	if !report.Good || len(report.Checks) != 9 || report.Release != "1.0.0" || !report.SecureBoot.On {
		t.Fatalf("%+v", report)
	}
	for _, c := range report.Checks {
		if c.Result != attestation.Good {
			t.Errorf("%+v", c)
		}
	}
	before := report.AttestationKey
	r.attest(t)
	r.expect.AttestationKey = before
	if report := attestation.Verify(r.good, r.expect); !report.Good {
		t.Errorf("a second time: %+v", report)
	}
	checkQuote(t, r.good, r.expect.Nonce)
}

// checkQuote has tpm2-tools judge the quote.
func checkQuote(t *testing.T, a *wherryv1.Attestation, nonce []byte) {
	t.Helper()
	key, err := tpm2.ParseKey(a.AttestationKey)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.ECDSA)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, data := range map[string][]byte{"key": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "quote": a.Quote, "signature": a.QuoteSignature} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	judge := func(nonce []byte) error {
		cmd := exec.Command("tpm2_checkquote", "-u", "key", "-m", "quote", "-s", "signature", "-q", hex.EncodeToString(nonce))
		cmd.Dir = dir
		return cmd.Run()
	}
	if err := judge(nonce); err != nil {
		t.Errorf("tpm2_checkquote: %v", err)
	}
	if judge(make([]byte, 32)) == nil {
		t.Error("tpm2_checkquote takes any nonce")
	}
}

// Each thing that somebody can change is found by the check that is about it.
func TestTampered(t *testing.T) {
	r := newRig(t, 1)
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	for name, c := range map[string]struct {
		change func(a *wherryv1.Attestation, e *attestation.Expect)
		want   string
	}{
		"another form":     {func(a *wherryv1.Attestation, _ *attestation.Expect) { a.Format = 2 }, "form"},
		"no machine meant": {func(_ *wherryv1.Attestation, e *attestation.Expect) { e.MachineKey = "" }, "machine key"},
		"no machine":       {func(a *wherryv1.Attestation, _ *attestation.Expect) { a.MachineKey = nil }, "machine key"},
		"another machine":  {func(_ *wherryv1.Attestation, e *attestation.Expect) { e.MachineKey = "SHA256:x" }, "machine key"},
		"another's binding": {func(a *wherryv1.Attestation, _ *attestation.Expect) {
			a.Binding = ed25519.Sign(other, attestation.Statement(a.AttestationKey, a.Quote))
		}, "machine key"},
		"quote changed":                       {func(a *wherryv1.Attestation, _ *attestation.Expect) { a.Quote[40] ^= 1 }, "machine key"},
		"quote changed, machine's key stolen": {func(a *wherryv1.Attestation, _ *attestation.Expect) { a.Quote[40] ^= 1; r.bind(a) }, "quote"},
		"signature changed":                   {func(a *wherryv1.Attestation, _ *attestation.Expect) { a.QuoteSignature[20] ^= 1 }, "quote"},
		"no signature":                        {func(a *wherryv1.Attestation, _ *attestation.Expect) { a.QuoteSignature = nil }, "quote"},
		"no quote":                            {func(a *wherryv1.Attestation, _ *attestation.Expect) { a.Quote = nil; r.bind(a) }, "quote"},
		"key that signs anything":             {func(a *wherryv1.Attestation, _ *attestation.Expect) { a.AttestationKey[5] &^= 1; r.bind(a) }, "attestation key"},
		"another TPM":                         {func(_ *wherryv1.Attestation, e *attestation.Expect) { e.AttestationKey = "SHA256:x" }, "attestation key"},
		"key in software, machine's key stolen": {func(a *wherryv1.Attestation, e *attestation.Expect) {
			e.AttestationKey = attestation.Verify(a, *e).AttestationKey
			forge(t, r, a)
		}, "attestation key"},
		"replayed":         {func(_ *wherryv1.Attestation, e *attestation.Expect) { e.Nonce = bytes.Repeat([]byte{8}, 32) }, "nonce"},
		"register changed": {func(a *wherryv1.Attestation, _ *attestation.Expect) { a.Pcrs[3].Value[0] ^= 1 }, "registers,event log"},
		"register missing": {func(a *wherryv1.Attestation, _ *attestation.Expect) { a.Pcrs = a.Pcrs[1:] }, "registers"},
		"register twice":   {func(a *wherryv1.Attestation, _ *attestation.Expect) { a.Pcrs[1] = a.Pcrs[0] }, "registers"},
		"no log":           {func(a *wherryv1.Attestation, _ *attestation.Expect) { a.EventLog = nil }, "event log"},
		"broken log":       {func(a *wherryv1.Attestation, _ *attestation.Expect) { a.EventLog = a.EventLog[:len(a.EventLog)-3] }, "event log"},
		"digest in the log changed": {func(a *wherryv1.Attestation, _ *attestation.Expect) {
			a.EventLog[bytes.Index(a.EventLog, program[:])] ^= 1
		}, "event log"},
		"certificate in the log changed": {func(a *wherryv1.Attestation, _ *attestation.Expect) {
			a.EventLog[bytes.Index(a.EventLog, signer)] ^= 1 // not what the digest is of
		}, "started by"},
		"another release": {func(_ *wherryv1.Attestation, e *attestation.Expect) {
			e.Releases = []attestation.Release{{Name: "2.0.0", PCR11: strings.Repeat("0", 64)}}
		}, "release"},
		"no releases": {func(_ *wherryv1.Attestation, e *attestation.Expect) { e.Releases = []attestation.Release{} }, "release"},
		"signed by another": {func(_ *wherryv1.Attestation, e *attestation.Expect) {
			e.Releases = []attestation.Release{{Name: "1.0.0", PCR11: e.Releases[0].PCR11, SignedBy: strings.Repeat("0", 64)}}
		}, "started by"},
	} {
		a, e := proto.CloneOf(r.good), r.expect
		c.change(a, &e)
		report := attestation.Verify(a, e)
		if got := failed(report); report.Good || got != c.want && !(c.want == "registers,event log" && got == "registers") {
			t.Errorf("%s: %q failed, want %q: %+v", name, got, c.want, report.Checks)
		}
	}
}

// forge makes a quote with a key in software that says it is a TPM's.
func forge(t *testing.T, r *rig, a *wherryv1.Attestation) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	public := a.AttestationKey
	copy(public[len(public)-66:], point[1:33])
	copy(public[len(public)-32:], point[33:])
	parsed, err := tpm2.ParseKey(public)
	if err != nil {
		t.Fatal(err)
	}
	copy(a.Quote[8:], parsed.QualifiedName)
	digest := sha256.Sum256(a.Quote)
	x, y, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	a.QuoteSignature = append([]byte{0, 0x18, 0, 0x0b, 0, 32}, x.FillBytes(make([]byte, 32))...)
	a.QuoteSignature = append(append(a.QuoteSignature, 0, 32), y.FillBytes(make([]byte, 32))...)
	r.bind(a)
	if report := attestation.Verify(a, r.expect); !report.Good {
		t.Fatalf("the forgery is too bad to prove anything: %+v", report)
	}
}

// With Secure Boot off it takes known programs to believe in register 11.
func TestWithoutSecureBoot(t *testing.T) {
	r := newRig(t, 0)
	report := attestation.Verify(r.good, r.expect)
	if failed(report) != "started by" || report.SecureBoot.On {
		t.Errorf("%+v", report)
	}
	r.expect.Releases[0].Loader = hex.EncodeToString(loader[:])
	if got := failed(attestation.Verify(r.good, r.expect)); got != "started by" {
		t.Errorf("with a known loader alone: %q failed", got)
	}
	r.expect.Releases[0].File = hex.EncodeToString(program[:])
	if report := attestation.Verify(r.good, r.expect); !report.Good {
		t.Errorf("with known programs: %+v", report)
	}
	r.tpm.measure(t, 2, tcglog.BootDriver, sha256.Sum256([]byte("evil")), nil)
	r.attest(t)
	if got := failed(attestation.Verify(r.good, r.expect)); got != "started by" {
		t.Errorf("with an unknown driver: %q failed", got)
	}
	// What a loader measures later does not switch Secure Boot on.
	r.tpm.measureData(t, 7, tcglog.VariableConfig, variable("SecureBoot", []byte{1}))
	r.attest(t)
	if report := attestation.Verify(r.good, r.expect); report.Good || report.SecureBoot.On {
		t.Errorf("Secure Boot is pretended: %+v", report)
	}
}

func TestAdditions(t *testing.T) {
	r := newRig(t, 1)
	r.expect.Releases[0].Cmdline = "ab"
	r.tpm.measureData(t, 12, tcglog.IPL, []byte("a\x00b\x00\x00\x00"))
	r.attest(t)
	if report := attestation.Verify(r.good, r.expect); !report.Good {
		t.Errorf("its own command line: %+v", report)
	}
	for _, pcr := range []uint32{12, 13} {
		r.tpm.measureData(t, pcr, tcglog.IPL, []byte("init=/bin/sh"))
		r.attest(t)
		if got := failed(attestation.Verify(r.good, r.expect)); got != "additions" {
			t.Errorf("register %d: %q failed", pcr, got)
		}
	}
}

// A quote of fewer registers than are believed is refused.
func TestFewerRegisters(t *testing.T) {
	r := newRig(t, 1)
	device, err := r.tpm.open()
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	q, err := device.Quote(r.expect.Nonce, tpm2.Select(11))
	if err != nil {
		t.Fatal(err)
	}
	r.good.Quote, r.good.QuoteSignature = q.Quote, q.Signature
	r.bind(r.good)
	if got := failed(attestation.Verify(r.good, r.expect)); got != "registers" {
		t.Errorf("%q failed", got)
	}
}

func TestWithoutTPM(t *testing.T) {
	a := New(Options{Open: func() (TPM, error) { return nil, tpm.ErrNone }})
	if _, err := a.Attest(t.Context(), make([]byte, 32)); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "--tpm") {
		t.Errorf("%v", err)
	}
	for _, n := range []int{0, attestation.MinNonce - 1, attestation.MaxNonce + 1} {
		if _, err := a.Attest(t.Context(), make([]byte, n)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("a nonce of %d bytes: %v", n, err)
		}
	}
}
