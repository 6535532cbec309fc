// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"wherry.example/wherry/internal/linux/efivar"
)

func TestOnTrial(t *testing.T) {
	v := efivar.Variables{Dir: t.TempDir()}
	set := func(name, text string) {
		t.Helper()
		if err := v.Write(efivar.Name{Name: name, Vendor: efivar.Loader}, efivar.Encode(text)); err != nil {
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

func TestExtension(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trial-extended")
	for text, want := range map[string]time.Duration{"": 0, "900": 15 * time.Minute, "-5": 0, "1e9": 0, "99999999": 30 * time.Minute, "999999999": 0, "12\n": 0} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := extension(file); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
	if got := extension(file + "-"); got != 0 {
		t.Errorf("no file: %s", got)
	}
}
