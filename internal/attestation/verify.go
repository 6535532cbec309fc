// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package attestation

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"unicode"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/format/efitext"
	"wherry.example/wherry/internal/format/tcglog"
	"wherry.example/wherry/internal/format/tpm2"
	"wherry.example/wherry/internal/sshkey"
)

// verifier goes along the chain. What is true so far decides what can be
// checked at all.
type verifier struct {
	Report
	a      *wherryv1.Attestation
	e      Expect
	key    tpm2.Key
	quote  tpm2.Quote
	values map[int][32]byte
	log    *tcglog.Log
}

// Verify checks an attestation.
func Verify(a *wherryv1.Attestation, e Expect) Report {
	v := &verifier{a: a, e: e}
	v.Claimed = printable(a.Version)
	if a.Format != Format {
		v.add("form", Bad, fmt.Sprintf("the attestation has form %d, this program knows %d: use a newer one", a.Format, Format))
		return v.Report
	}
	machine := v.checkMachine()
	key := v.checkKey(machine)
	quote := key && v.decide("quote", "signed by the attestation key", v.checkQuote())
	if !key {
		v.add("quote", Skipped, "whose key signed it is not known")
	}
	v.checkNonce(quote)
	registers := v.checkRegisters(quote)
	logged := v.checkLog(registers)
	if logged {
		v.readSecureBoot()
	}
	release := v.checkRelease(registers)
	v.checkStarted(logged, release)
	v.checkAdded(registers, release)
	v.Good = len(v.Failed()) == 0
	return v.Report
}

// checkMachine looks whether the machine that is meant signed this.
func (v *verifier) checkMachine() bool {
	const name = "machine key"
	if len(v.a.MachineKey) != ed25519.PublicKeySize {
		return v.add(name, Bad, "there is none")
	}
	public := ed25519.PublicKey(v.a.MachineKey)
	fingerprint, err := sshkey.Fingerprint(public)
	if err != nil {
		return v.add(name, Bad, err.Error())
	}
	v.MachineKey = fingerprint
	switch {
	case v.e.MachineKey == "":
		return v.add(name, Bad, fmt.Sprintf("it is %s, and nobody said which machine is meant", fingerprint))
	case v.e.MachineKey != fingerprint:
		return v.add(name, Bad, fmt.Sprintf("this is of another machine: its key is %s, not %s", fingerprint, v.e.MachineKey))
	case !ed25519.Verify(public, Statement(v.a.AttestationKey, v.a.Quote), v.a.Binding):
		return v.add(name, Bad, "the machine's key did not sign that this attestation key and quote are its own")
	}
	return v.add(name, Good, fingerprint)
}

func (v *verifier) checkKey(machine bool) bool {
	const name = "attestation key"
	key, err := tpm2.ParseKey(v.a.AttestationKey)
	if err != nil {
		return v.add(name, Bad, err.Error())
	}
	v.key = key
	digest := sha256.Sum256(v.a.AttestationKey)
	v.AttestationKey = "SHA256:" + base64.RawStdEncoding.EncodeToString(digest[:])
	switch {
	case v.e.AttestationKey != "" && v.e.AttestationKey != v.AttestationKey:
		return v.add(name, Bad, fmt.Sprintf("it is %s, not %s: another TPM, or one whose seed was changed", v.AttestationKey, v.e.AttestationKey))
	case !machine:
		return v.add(name, Skipped, "nobody vouches for it")
	}
	return v.add(name, Good, v.AttestationKey)
}

func (v *verifier) checkQuote() (err error) {
	v.quote, err = v.key.Verify(v.a.Quote, v.a.QuoteSignature)
	if err != nil {
		return err
	}
	v.Starts = v.quote.Resets
	v.Nonce = hex.EncodeToString(v.quote.Nonce)
	return nil
}

func (v *verifier) checkNonce(quote bool) {
	const name = "nonce"
	switch {
	case !quote:
		v.add(name, Skipped, "the quote is not proven")
	case v.e.Nonce == nil:
		v.add(name, Skipped, "none was given: the quote may be of any time")
	case !bytes.Equal(v.e.Nonce, v.quote.Nonce):
		v.add(name, Bad, fmt.Sprintf("the quote answers %x, not %x: it is an answer to another question, perhaps an old one", v.quote.Nonce, v.e.Nonce))
	default:
		v.add(name, Good, "the quote answers this question")
	}
}

// checkRegisters looks whether the values are those that were quoted.
func (v *verifier) checkRegisters(quote bool) bool {
	const name = "registers"
	v.values = map[int][32]byte{}
	for _, p := range v.a.Pcrs {
		if p.GetIndex() >= tpm2.PCRs || len(p.GetValue()) != 32 {
			return v.add(name, Bad, "one of the values is none")
		}
		if _, twice := v.values[int(p.Index)]; twice {
			return v.add(name, Bad, fmt.Sprintf("there are two values for register %d", p.Index))
		}
		v.values[int(p.Index)] = [32]byte(p.Value)
	}
	if !quote {
		return v.add(name, Skipped, "the quote is not proven")
	}
	if v.quote.Selected&Selection != Selection {
		return v.add(name, Bad, fmt.Sprintf("the quote is about registers %v: want at least %v", v.quote.Selected.List(), Selection.List()))
	}
	digest, all := v.quote.Selected.DigestOf(v.values)
	if !all || !bytes.Equal(digest[:], v.quote.Digest) {
		return v.add(name, Bad, "the values are not the ones that the TPM quoted")
	}
	for _, n := range v.quote.Selected.List() {
		v.PCRs = append(v.PCRs, PCR{n, hexOf(v.values[n])})
	}
	return v.add(name, Good, fmt.Sprintf("%d values are the quoted ones", len(v.PCRs)))
}

// checkLog looks whether the log leads to the quoted values.
func (v *verifier) checkLog(registers bool) bool {
	const name = "event log"
	if len(v.a.EventLog) == 0 {
		return v.add(name, Bad, "the firmware kept none: this machine was not started by UEFI firmware with measured boot")
	}
	log, err := tcglog.Parse(v.a.EventLog)
	if err != nil {
		return v.add(name, Bad, err.Error())
	}
	if !registers {
		return v.add(name, Skipped, "the registers are not proven")
	}
	replayed := log.Replay()
	for _, n := range Selection.List() {
		if replayed[n] != v.values[n] {
			return v.add(name, Bad, fmt.Sprintf("it does not lead to the quoted value of register %d", n))
		}
	}
	v.log = log
	return v.add(name, Good, fmt.Sprintf("%d events lead to the quoted values", len(log.Events)))
}

// checkRelease returns the release whose file was started.
func (v *verifier) checkRelease(registers bool) *Release {
	const name = "release"
	if !registers {
		v.add(name, Skipped, "the registers are not proven")
		return nil
	}
	if v.values[11] == [32]byte{} {
		v.add(name, Bad, "register 11 is empty: no OS file was started (a kernel that is booted directly measures nothing)")
		return nil
	}
	if v.e.Releases == nil {
		v.add(name, Skipped, "no manifest and no repository was given")
		return nil
	}
	got := hexOf(v.values[11])
	for _, r := range v.e.Releases {
		if r.PCR11 == got {
			v.Release = r.Name
			v.add(name, Good, "register 11 is that of "+r.Name)
			return &r
		}
	}
	v.add(name, Bad, fmt.Sprintf("register 11 is %s, and no release given has that (%d compared)", got, len(v.e.Releases)))
	return nil
}

// checkAdded: what is not part of the OS file is measured into 12 and 13. The
// loader measures the file's own command line into 12 as well.
func (v *verifier) checkAdded(registers bool, r *Release) {
	const name = "additions"
	var empty [32]byte
	switch {
	case !registers:
		v.add(name, Skipped, "the registers are not proven")
	case v.values[13] != empty:
		v.add(name, Bad, "extensions were added to the OS file when it was started (register 13)")
	case v.values[12] == empty:
		v.add(name, Good, "nothing was added to the OS file")
	case r == nil:
		v.add(name, Skipped, "there is no release whose command line to compare register 12 with")
	case v.values[12] != commandLine(r.Cmdline):
		v.add(name, Bad, "a command line or credentials were added to the OS file when it was started (register 12)")
	default:
		v.add(name, Good, "nothing but its own command line was added to the OS file")
	}
}

// commandLine is register 12 after the loader measured a command line, which it
// does in UTF-16 with a zero at the end.
func commandLine(text string) [32]byte {
	digest := sha256.Sum256(efitext.Encode(text))
	return sha256.Sum256(append(make([]byte, 32), digest[:]...))
}

// printable makes a machine's text fit for a terminal.
func printable(s string) string {
	var out []rune
	for _, r := range s {
		if len(out) == 64 {
			break
		}
		if !unicode.IsPrint(r) {
			r = unicode.ReplacementChar
		}
		out = append(out, r)
	}
	return string(out)
}
