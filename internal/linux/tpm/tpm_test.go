// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package tpm

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wherry.example/wherry/internal/format/tpm2"
)

func TestReadEventLog(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if data, err := ReadEventLog(file, 4); data != nil || err != nil {
		t.Errorf("no log: %q, %v", data, err)
	}
	if err := os.WriteFile(file, []byte("1234"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := ReadEventLog(file, 4); string(data) != "1234" || err != nil {
		t.Errorf("a log: %q, %v", data, err)
	}
	if _, err := ReadEventLog(file, 3); err == nil || !strings.Contains(err.Error(), "longer") {
		t.Errorf("a log that is too long: %v", err)
	}
}

// broken answers nothing, or nonsense.
type broken struct{ answer string }

func (b broken) Write(p []byte) (int, error) { return len(p), nil }
func (b broken) Close() error                { return nil }
func (b broken) Read(p []byte) (int, error) {
	if b.answer == "" {
		return 0, io.EOF
	}
	return copy(p, b.answer), nil
}

func TestBrokenTPM(t *testing.T) {
	for _, answer := range []string{"", "x", "\x80\x01\x00\x00\x00\x0a\x00\x00\x09\x22", "\x80\x01\x00\x00\x00\x0a\x00\x00\x00\x00"} {
		device := New(broken{answer})
		if _, err := device.Quote(make([]byte, 32), tpm2.Select(0)); err == nil {
			t.Errorf("%q is a quote", answer)
		}
		if _, err := device.PCRs(tpm2.Select(0)); err == nil {
			t.Errorf("%q are registers", answer)
		}
	}
	if _, err := New(broken{"\x80\x01\x00\x00\x00\x0a\x00\x00\x09\x22"}).PCRs(tpm2.Select(0)); !errors.As(err, new(tpm2.Code)) || !strings.Contains(err.Error(), "busy") {
		t.Errorf("a busy TPM: %v", err)
	}
}
