// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package tpm2

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What these commands do is tested with a TPM, in internal/machine/attest.

func TestSelection(t *testing.T) {
	s := Select(0, 7, 11, 23)
	if diff := cmp.Diff([]int{0, 7, 11, 23}, s.List()); diff != "" || !s.Has(11) || s.Has(12) {
		t.Error(diff)
	}
	r := reader{b: s.marshal()}
	if got := r.selection(); got != s || r.end() != nil {
		t.Errorf("%v, %v", got.List(), r.err)
	}
	if _, all := s.DigestOf(map[int][32]byte{0: {}, 7: {}, 11: {}}); all {
		t.Error("a missing register has a digest")
	}
}

func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		answer []byte
		want   string
	}{
		"nothing":      {nil, "too early"},
		"wrong length": {append(command(tagNoSessions, 0), 0), "says it has"},
		"a password":   {command(tagNoSessions, 0x9a2), "password"},
		"unknown":      {command(tagNoSessions, 0x101), "0x101"},
	} {
		if err := Done(c.answer); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if err := Done(command(tagNoSessions, 0)); err != nil {
		t.Error(err)
	}
	// A TPM without the bank answers with an empty selection.
	none := command(tagNoSessions, 0, u32(1), u32(0), u32(0))
	if _, err := ParsePCRs(none); !errors.Is(err, ErrNoSHA256) {
		t.Error(err)
	}
	for _, cut := range []int{11, 15} {
		if _, _, err := ParseCreated(command(tagSessions, 0, make([]byte, cut-headerBytes))); err == nil {
			t.Errorf("an answer of %d bytes is a key", cut)
		}
	}
}

func TestParseKeyRefuses(t *testing.T) {
	whole := append(keyTemplate()[:len(keyTemplate())-4], append(sized(make([]byte, 32)), sized(make([]byte, 32))...)...)
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		want   string
	}{
		"as it is: not on the curve": {func(b []byte) []byte { return b }, "point"},
		"RSA":                        {func(b []byte) []byte { b[1] = 1; return b }, "kind"},
		"not restricted":             {func(b []byte) []byte { b[5] &^= 1; return b }, "attributes"},
		"decrypts":                   {func(b []byte) []byte { b[5] |= 2; return b }, "attributes"},
		"longer":                     {func(b []byte) []byte { return append(b, 0) }, "too many"},
		"shorter":                    {func(b []byte) []byte { return b[:len(b)-1] }, "too early"},
	} {
		if _, err := ParseKey(c.change(append([]byte(nil), whole...))); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(keyTemplate())
	f.Add(command(tagNoSessions, 0, u32(1), Select(1, 2).marshal(), u32(2), sized(make([]byte, 32)), sized(make([]byte, 32))))
	f.Fuzz(func(t *testing.T, data []byte) {
		if k, err := ParseKey(data); err == nil {
			_, _ = k.Verify(data, data)
		}
		if q, err := ParseQuote(data); err == nil && q.Selected.List() == nil && q.Selected != 0 {
			t.Fatalf("a selection of nothing: %x", q.Selected)
		}
		_, _, _ = ParseCreated(data)
		_, _, _ = ParseQuoted(data)
		_, _ = ParsePCRs(data)
	})
}
