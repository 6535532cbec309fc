// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"log/slog"
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

func TestErrorLog(t *testing.T) {
	var out bytes.Buffer
	e := errorLog{slog.New(slog.NewTextHandler(&out, nil))}
	for _, text := range []string{"http: TLS handshake error from 10.0.0.1:1: EOF\n", "http2: panic serving 10.0.0.1:1: boom\ngoroutine 7\n"} {
		if n, err := e.Write([]byte(text)); n != len(text) || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	if got := out.String(); strings.Contains(got, "handshake") || !strings.Contains(got, "level=ERROR") || !strings.Contains(got, "boom") {
		t.Errorf("the log says %q", got)
	}
}
