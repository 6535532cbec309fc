// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"os"
	"path/filepath"
	"testing"
	"time"

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

// A trial that the configuration makes long is not cut short.
func TestLonger(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trial-limit")
	for text, want := range map[string]time.Duration{
		"": 0, "30": 0, "300": 0, "1800": 25 * time.Minute, "-1": 0, "many": 0, "9999999999": 0,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := longer(file); got != want {
			t.Errorf("wherryd gives it %q s: %s more, want %s", text, got, want)
		}
	}
	if got := longer(file + ".not"); got != 0 {
		t.Errorf("wherryd says nothing: %s more", got)
	}
}
