// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package attestation is what an attestation means: what a machine and its TPM
// sign, and how somebody who was not there checks it.
//
// The parties: the TPM holds the attestation key, which signs nothing but what
// the TPM itself made. The machine's key, which people know by first contact,
// signs which attestation key is its TPM's. Firmware, boot loader and stub
// measured what they started into the TPM's registers before they started it;
// the event log tells what that was. The publisher signed what register 11
// holds when one release starts.
//
// Verify goes from one to the next and reports every check, also those behind
// one that failed, so that a person sees which link is broken. It is pure: no
// network, no clock, no file. All of its input is hostile and bounded.
package attestation

import (
	"crypto/sha256"

	"wherry.example/wherry/internal/format/tpm2"
)

// Format is the number of the form that this package knows.
const Format = 1

// Bounds of an attestation.
const (
	MinNonce    = 16
	MaxNonce    = tpm2.MaxNonce
	MaxEventLog = 1 << 20
	// MaxFileBytes holds the whole as JSON, whose bytes are in base64.
	MaxFileBytes = 2 << 20
)

// Selection are the registers in a quote: the firmware's, and those of
// systemd's stub (11: the OS file; 12 and 13: what was added to it).
var Selection = tpm2.Select(0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13)

// Statement is what the machine's key signs: this attestation key and this quote are mine.
func Statement(attestationKey, quote []byte) []byte {
	key, signed := sha256.Sum256(attestationKey), sha256.Sum256(quote)
	b := append([]byte("wherry attestation v1\x00"), key[:]...)
	return append(b, signed[:]...)
}
