// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package efitext

import "testing"

func TestText(t *testing.T) {
	for _, text := range []string{"", "x", `\EFI\Linux`, "Größe 🛶"} {
		if got := Decode(Encode(text)); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	for data, want := range map[string]string{"a": "", "a\x00": "a", "a\x00b": "a", "a\x00\x00\x00b\x00": "a"} {
		if got := Decode([]byte(data)); got != want {
			t.Errorf("%q became %q", data, got)
		}
	}
}
