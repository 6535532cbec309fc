// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"strings"
	"testing"
)

// Messages quote what callers and registries sent: that must not reach a terminal as it is.
func TestClip(t *testing.T) {
	for in, want := range map[string]string{
		"plain\n\ttext":             "plain\n\ttext",
		"a\x00b\x1b[2J\x7f\u009b\r": "a\uFFFDb\uFFFD[2J\uFFFD\uFFFD\uFFFD",
		"\xff":                      "\uFFFD",
		"ü" + strings.Repeat("é", maxErrorBytes): "ü" + strings.Repeat("é", maxErrorBytes/2-1) + "…",
	} {
		if got := clip(in); got != want {
			t.Errorf("%.20q: %.40q", in, got)
		}
	}
}
