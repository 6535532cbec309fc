// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"strings"
	"testing"
)

func TestEachKill(t *testing.T) {
	for input, want := range map[string]int{
		"":                                    0,
		"\n\r\nhello\nkill wherryd please\n":  0,
		"kill wherryd\n":                      1,
		"kill wherryd\r\nx\nkill wherryd":     2,
		"x kill wherryd\n kill wherryd\nkill": 0,
	} {
		got := 0
		if err := eachKill(strings.NewReader(input), map[string]func(){killDaemon: func() { got++ }}); err != nil {
			t.Errorf("%q: %v", input, err)
		}
		if got != want {
			t.Errorf("%q killed %d times, want %d", input, got, want)
		}
	}
	if err := eachKill(strings.NewReader(strings.Repeat("x", 1<<20)), nil); err == nil {
		t.Error("a line of a megabyte was read")
	}
}
