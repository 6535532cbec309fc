// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package bootslots

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

func TestSameBytes(t *testing.T) {
	long := bytes.Repeat([]byte("wherry"), chunk/2) // three chunks
	changed := bytes.Clone(long)
	changed[2*chunk+1] ^= 1
	for name, c := range map[string]struct {
		a, b []byte
		want bool
	}{
		"nothing":                    {nil, nil, true},
		"one is empty":               {nil, long, false},
		"the same":                   {long, long, true},
		"the same, not whole chunks": {long[:chunk+7], long[:chunk+7], true},
		"one byte":                   {long, changed, false},
		"cut at a chunk":             {long, long[:2*chunk], false},
		"cut within one":             {long[:chunk+7], long, false},
	} {
		same, err := sameBytes(t.Context(), bytes.NewReader(c.a), iotest.HalfReader(bytes.NewReader(c.b)))
		if err != nil || same != c.want {
			t.Errorf("%s: %v, %v, want %v", name, same, err, c.want)
		}
	}
}

// A disk that can't be read is not one with something else on it.
func TestSameBytesFails(t *testing.T) {
	bad := errors.New("the disk is dying")
	part := io.MultiReader(bytes.NewReader(make([]byte, 9)), iotest.ErrReader(bad))
	if _, err := sameBytes(t.Context(), part, bytes.NewReader(make([]byte, 100))); !errors.Is(err, bad) {
		t.Errorf("a read error is told as %v", err)
	}
	gone, cancel := context.WithCancelCause(t.Context())
	cancel(bad)
	if _, err := sameBytes(gone, bytes.NewReader(nil), bytes.NewReader(nil)); !errors.Is(err, bad) {
		t.Errorf("a context that ended is told as %v", err)
	}
}
