// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"testing"

	"wherry.example/wherry/api/wherryv1"
)

func TestBootLine(t *testing.T) {
	slot := func(file string, trial bool, left uint32) *wherryv1.Boot {
		return &wherryv1.Boot{Slot: &wherryv1.UpdateSlot{File: file, Trial: trial, TriesLeft: left}}
	}
	for want, b := range map[string]*wherryv1.Boot{
		"wherry_2.0.0.efi": slot("wherry_2.0.0.efi", false, 0),
		"wherry_2.0.0+2-1.efi, on trial, 2 more tries": slot("wherry_2.0.0+2-1.efi", true, 2),
		"wherry_2.0.0+0-3.efi, on trial, its last try": slot("wherry_2.0.0+0-3.efi", true, 0),
		"it was not started by UEFI firmware":          {Unsupported: "it was not started by UEFI firmware"},
		"the OS file that runs was not found":          {},
	} {
		if got := bootLine(b); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for want, trust := range map[string]*wherryv1.UpdateTrust{
		"not verified: Secure Boot is off":                                    {},
		"not verified: the firmware has no owner's keys yet":                  {SetupMode: true},
		"not verified: Secure Boot is off; signed by CN=Owner (SHA-256 ab12)": {SignedBy: "CN=Owner", Fingerprint: "ab12"},
		"verified by Secure Boot, signed by CN=Owner (SHA-256 ab12)":          {SecureBoot: true, SignedBy: "CN=Owner", Fingerprint: "ab12"},
		"verified by Secure Boot":                                             {SecureBoot: true},
	} {
		if got := verifiedLine(trust); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
