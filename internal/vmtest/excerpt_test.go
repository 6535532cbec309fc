// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"strings"
	"testing"
)

func TestExcerpt(t *testing.T) {
	if got := excerpt("one\r\ntwo\r\n"); got != "one\ntwo\n" {
		t.Errorf("a short console: %q", got)
	}
	noise := strings.Repeat("wherry-init: wherryd ended (killed by SIGKILL) after 10s\r\n", 200)
	trace := "panic: assignment to entry in nil map\r\n\r\ngoroutine 7 [running]:\r\n" + strings.Repeat("a frame\r\n", 100)
	got := excerpt(noise + trace + noise + "the end\r\n")
	for _, want := range []string{"panic: assignment to entry in nil map\n\ngoroutine 7", "…\n…\n", "\nthe end\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("the excerpt lacks %q:\n%s", want, got)
		}
	}
	if len(got) > excerptBytes+1000 || strings.Contains(got, "\r") {
		t.Errorf("the excerpt has %d bytes", len(got))
	}
	if got := excerpt(strings.Repeat(trace, 50)); len(got) > excerptBytes+1500 {
		t.Errorf("of many crashes %d bytes are shown", len(got))
	}
}
