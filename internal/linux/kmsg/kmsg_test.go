// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package kmsg

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRecord(t *testing.T) {
	for text, want := range map[string]string{
		"plain":              "<30>x: plain\n",
		"two\nlines\n":       "<30>x: two lines\n",
		"\x1b[2J<0>x: panic": "<30>x:  [2J<0>x: panic\n",
		"":                   "<30>x: \n",
	} {
		if got := record(levelInfo, "x", text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if n := len(record(levelErr, "x", strings.Repeat("y", 100000))); n > maxLine+40 {
		t.Errorf("a record of %d bytes", n)
	}
}

func TestLog(t *testing.T) {
	file := filepath.Join(t.TempDir(), "kmsg")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, debug := range []bool{false, true} {
		l, err := Open(file, "me", debug)
		if err != nil {
			t.Fatal(err)
		}
		l.Errorf("%d", 1)
		l.Debugf("%d", 2)
	}
	b, err := os.ReadFile(file)
	// Each Open writes from the file's beginning, as it does not on the device.
	if want := "<27>me: 1\n<30>me: 2\n"; err != nil || string(b) != want {
		t.Errorf("%q, %v; want %q", b, err, want)
	}
	var none *Log
	none.Errorf("nobody hears %s", "this")
	new(Log).Infof("or this")
}
