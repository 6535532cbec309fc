// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package bootcount

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for file, want := range map[string]Name{
		"wherry_1.0.0.efi":      {Stem: "wherry_1.0.0"},
		"wherry_1.0.0+3.efi":    {Stem: "wherry_1.0.0", Counted: true, Left: 3},
		"wherry_1.0.0+2-1.efi":  {Stem: "wherry_1.0.0", Counted: true, Left: 2, Done: 1},
		"wherry_1.0.0+0-3.EFI":  {Stem: "wherry_1.0.0", Counted: true, Done: 3},
		"a+b+1-2.efi":           {Stem: "a+b", Counted: true, Left: 1, Done: 2},
		"a+.efi":                {Stem: "a+"},
		"a+-1.efi":              {Stem: "a+-1"},
		"a+1-.efi":              {Stem: "a+1-"},
		"a+1x.efi":              {Stem: "a+1x"},
		"a+1-2-3.efi":           {Stem: "a+1-2-3"},
		"a+1000.efi":            {Stem: "a+1000"},
		"+1.efi":                {Stem: "+1"},
		"a+99999999999-1.efi":   {Stem: "a+99999999999-1"},
		"wherry_1.0.0-rc+1.efi": {Stem: "wherry_1.0.0-rc", Counted: true, Left: 1},
	} {
		if got, ok := Parse(file); !ok || got != want {
			t.Errorf("%s: %+v, %v", file, got, ok)
		}
	}
	for _, file := range []string{"", ".efi", "x", "x.conf", ".x.efi", "a/b.efi", `a\b.efi`, strings.Repeat("x", 255) + ".efi"} {
		if got, ok := Parse(file); ok {
			t.Errorf("%s: %+v", file, got)
		}
	}
}

func TestTrial(t *testing.T) {
	for _, c := range []struct {
		selected, counted string
		want              bool
	}{
		{"wherry_2.0.0+3.efi", `\EFI\Linux\wherry_2.0.0+2-1.efi`, true}, // as systemd-boot 252 says it
		{"wherry_2.0.0.efi", `\EFI\Linux\Wherry_2.0.0+2-1.efi`, true},   // later ones leave the counter out
		{"wherry_1.0.0.efi", `\EFI\Linux\wherry_2.0.0+2-1.efi`, false},  // 2.0.0 did not load
		{"wherry_1.0.0.efi", "", false},
		{"", "", false},
		{"wherry_1.0.0.efi", `\EFI\Linux\`, false},
	} {
		if got := Trial(c.selected, c.counted); got != c.want {
			t.Errorf("%q, %q: %v", c.selected, c.counted, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("wherry_1.0.0+2-1.efi")
	f.Add("a+007.efi")
	f.Fuzz(func(t *testing.T, file string) {
		n, ok := Parse(file)
		if !ok {
			return
		}
		if again, ok := Parse(n.String()); !ok && len(n.String()) <= maxName || ok && again != n {
			t.Errorf("%q is %+v, and that is %q", file, n, n.String())
		}
		if !Same(file, file) {
			t.Errorf("%q is not itself", file)
		}
	})
}
