// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"testing"

	"wherry.example/wherry/internal/format/efitext"
	"wherry.example/wherry/internal/linux/efivar"
)

func TestOnTrial(t *testing.T) {
	v := efivar.Variables{Dir: t.TempDir()}
	set := func(name, text string) {
		t.Helper()
		if err := v.Write(efivar.Name{Name: name, Vendor: efivar.Loader}, efitext.Encode(text)); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, want bool) {
		t.Helper()
		if got, err := onTrial(v); got != want || err != nil {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	want("no variables", false)
	set("LoaderEntrySelected", "wherry_1.0.0.efi")
	want("nothing counted", false)
	set("LoaderBootCountPath", `\EFI\Linux\wherry_2.0.0+2-1.efi`)
	want("the new one did not load", false)
	set("LoaderEntrySelected", "wherry_2.0.0+3.efi")
	want("the new one runs", true)
}
