// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseFlags(t *testing.T) {
	for cmdline, want := range map[string]flags{
		"":                                     {},
		"console=ttyS0 quiet\n":                {},
		"wherry.debug":                         {debug: true},
		"wherry.debug=1 wherry.onfail=halt":    {debug: true, onFail: onFailHalt},
		"wherry.debug=0":                       {},
		"wherry.debug wherry.debug=0":          {},
		"wherry.onfail=poweroff":               {onFail: onFailOff},
		"wherry.onfail=halt wherry.onfail=x":   {onFail: onFailHalt},
		`"wherry.onfail=halt"`:                 {onFail: onFailHalt},
		`wherry.onfail="halt"`:                 {onFail: onFailHalt},
		`x="wherry.debug wherry.onfail=halt"`:  {},
		"-- wherry.nocoldplug":                 {noColdplug: true},
		"wherry.chaos=console":                 {chaos: true},
		"wherry.chaos=hang":                    {hang: true},
		"wherry.chaos wherry.chaos=1":          {},
		"wherry.trial=90":                      {trial: 90 * time.Second},
		"wherry.trial=0 wherry.trial=1000000":  {},
		"wherry.trial=-1 wherry.trial=x":       {},
		"wherry.debugger wherry. =halt wherry": {},
		`"wherry.debug`:                        {debug: true},
	} {
		if got := parseFlags(cmdline); got != want {
			t.Errorf("%s: %+v, want %+v", cmdline, got, want)
		}
	}
}

// FuzzParseFlags: nothing breaks it, and without our prefix nothing changes.
func FuzzParseFlags(f *testing.F) {
	f.Add(`console=ttyS0 wherry.debug a="b c" -- wherry.onfail=halt`)
	f.Fuzz(func(t *testing.T, s string) {
		got := parseFlags(s)
		if !strings.Contains(s, "wherry") && !strings.Contains(s, `"`) && got != (flags{}) {
			t.Errorf("%q set %+v", s, got)
		}
		for _, w := range words(s) {
			if strings.Contains(w, `"`) || len(w) > len(s) {
				t.Errorf("%q gave the word %q", s, w)
			}
		}
	})
}

func TestModprobeNames(t *testing.T) {
	for args, want := range map[string][]string{
		"-q -- fs-xfs":    {"fs-xfs"},
		"-q fs-xfs":       {"fs-xfs"},
		"xfs":             {"xfs"},
		"-- -odd":         {"-odd"},
		"-a one two -v":   {"one", "two"},
		"-q --":           nil,
		"--first-time -q": nil,
	} {
		if got := modprobeNames(strings.Fields(args)); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
	if got := modprobeNames(slices.Repeat([]string{"x"}, 1000)); len(got) != maxModprobeNames {
		t.Errorf("%d names from a thousand", len(got))
	}
}
