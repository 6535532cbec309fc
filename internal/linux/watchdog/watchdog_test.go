// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package watchdog

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestList(t *testing.T) {
	sys := t.TempDir()
	if got := List(sys); len(got) != 0 {
		t.Errorf("none: %q", got)
	}
	for _, name := range []string{"watchdog1", "watchdog0", "watchdog", "other0"} {
		if err := os.MkdirAll(filepath.Join(sys, "class", "watchdog", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if got := List(sys); !slices.Equal(got, []string{"watchdog0", "watchdog1"}) {
		t.Errorf("%q", got)
	}
}

// A device that is no watchdog is refused, and not left open.
func TestOpenRefuses(t *testing.T) {
	for _, name := range []string{"null", "no-such-watchdog"} {
		if d, err := Open(name, time.Minute); err == nil {
			t.Errorf("%s: %+v", name, d)
		}
	}
}
