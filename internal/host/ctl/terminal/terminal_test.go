// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package terminal

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestDetachKeys(t *testing.T) {
	for text, want := range map[string]string{"ctrl-p,ctrl-q": "\x10\x11", "a,b,ctrl-@": "ab\x00", "ctrl-]": "\x1d", "": ""} {
		if got, err := ParseDetachKeys(text); err != nil || string(got) != want {
			t.Errorf("%q: %q %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"ctrl-", "ctrl-P", "ab", "ctrl-1", "a,,b"} {
		if got, err := ParseDetachKeys(text); err == nil {
			t.Errorf("%q was read as %q", text, got)
		}
	}
}

func TestDetachReader(t *testing.T) {
	cases := []struct {
		keys, in, out string
		detached      bool
	}{
		{"\x10\x11", "hello", "hello", false},
		{"\x10\x11", "hel\x10lo", "hel\x10lo", false},
		{"\x10\x11", "hi\x10\x11rest", "hi", true},
		{"\x10\x11", "\x10\x10\x11", "\x10", true},
		{"\x10\x11", "end\x10", "end\x10", false},
		{"aab", "aaab", "a", true},
		{"", "any\x10\x11", "any\x10\x11", false},
	}
	for _, c := range cases {
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader,
		} {
			got, err := io.ReadAll(DetachReader(wrap(strings.NewReader(c.in)), []byte(c.keys)))
			if string(got) != c.out || errors.Is(err, ErrDetached) != c.detached {
				t.Errorf("%q in %q (%s): %q %v", c.keys, c.in, name, got, err)
			}
		}
	}
}
