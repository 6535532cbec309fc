// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"regexp"
	"strings"
)

const (
	excerptBytes = 3 << 10 // of a console's end: what shows a test's output may keep a few KB alone
	crashLines   = 40      // that are shown of each crash before that
	maxCrashes   = 3
)

// crash is how a death begins that no test asks for.
var crash = regexp.MustCompile(`panic: |fatal error: |SIG[A-Z]+: |unexpected fault|wherryd ended \(exit|Kernel panic|BUG: |Oops|Out of memory|invoked oom-killer|blocked for more than|stall`)

// excerpt is what a person needs to see of a console: the beginning of every
// crash, and the end.
func excerpt(console string) string {
	console = strings.ReplaceAll(console, "\r", "")
	cut := max(0, len(console)-excerptBytes)
	cut += strings.IndexByte(console[cut:], '\n') + 1
	if cut <= excerptBytes/2 {
		return console
	}
	var out strings.Builder
	left, crashes := 0, 0
	for line := range strings.Lines(console[:cut]) {
		if left == 0 && crashes < maxCrashes && crash.MatchString(line) {
			left = crashLines
			crashes++
		}
		if left > 0 {
			out.WriteString(line)
			if left--; left == 0 {
				out.WriteString("…\n")
			}
		}
	}
	return out.String() + "…\n" + console[cut:]
}
