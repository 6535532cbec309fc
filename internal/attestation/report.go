// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package attestation

import "encoding/hex"

// Expect is what the verifier knows from elsewhere.
type Expect struct {
	// MachineKey is the fingerprint of the machine's key, SHA256:…; it is needed.
	MachineKey string
	// AttestationKey is that of the TPM's key, when it was seen before; empty: any
	// that the machine's key vouches for. Who took over the machine once may have
	// stolen its key, but not this one.
	AttestationKey string
	// Nonce is what the machine was asked with; nil: the quote may be of any time.
	Nonce []byte
	// Releases are what the machine may run; nil: nothing is compared.
	Releases []Release
}

// Release is what a publisher says that a TPM shows when a release starts.
type Release struct {
	Name     string // for people
	PCR11    string // hex
	SignedBy string // SHA-256 of the Secure Boot certificate, hex; empty: not signed
	// Loader and File are the Authenticode SHA-256 of the boot loader and of the OS file, hex.
	Loader, File string
	Cmdline      string // the kernel's, as it is in the OS file
}

// Result of a check.
type Result string

// Results. What was skipped could not be checked, for the reason given.
const (
	Good    Result = "good"
	Bad     Result = "bad"
	Skipped Result = "skipped"
)

// Check is one link of the chain.
type Check struct {
	Name   string `json:"check"`
	Result Result `json:"result"`
	Detail string `json:"detail"`
}

// PCR is a register's value.
type PCR struct {
	Index int    `json:"index"`
	Value string `json:"value"`
}

// SecureBoot is what the log proves about signatures.
type SecureBoot struct {
	On bool `json:"on"`
	// Enrolled are the certificates in db; SignedBy those that a program was
	// started for.
	Enrolled []Certificate `json:"enrolled,omitempty"`
	SignedBy []Certificate `json:"signedBy,omitempty"`
	other    bool          // a program was started for another reason than a certificate
}

// Certificate is one of Secure Boot's.
type Certificate struct {
	Subject     string `json:"subject"`
	Fingerprint string `json:"fingerprint"` // SHA-256, hex
}

// Report is what came of it.
type Report struct {
	Good           bool        `json:"good"`
	Checks         []Check     `json:"checks"`
	MachineKey     string      `json:"machineKey,omitempty"`
	AttestationKey string      `json:"attestationKey,omitempty"`
	Nonce          string      `json:"nonce,omitempty"`
	Release        string      `json:"release,omitempty"` // whose PCR 11 it is
	Claimed        string      `json:"claimed,omitempty"` // what the machine says that it runs
	SecureBoot     *SecureBoot `json:"secureBoot,omitempty"`
	PCRs           []PCR       `json:"pcrs,omitempty"`
	// Starts counts how often the machine was started since its TPM was made.
	Starts uint32 `json:"starts,omitempty"`
}

func (r *Report) add(name string, result Result, detail string) bool {
	r.Checks = append(r.Checks, Check{name, result, detail})
	return result == Good
}

// decide adds a good check, or a bad one when there is an error.
func (r *Report) decide(name, detail string, err error) bool {
	if err != nil {
		return r.add(name, Bad, err.Error())
	}
	return r.add(name, Good, detail)
}

// Failed are the checks that are bad.
func (r *Report) Failed() (list []Check) {
	for _, c := range r.Checks {
		if c.Result == Bad {
			list = append(list, c)
		}
	}
	return list
}

func hexOf(v [32]byte) string { return hex.EncodeToString(v[:]) }
