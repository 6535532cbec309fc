// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/api/wherryv1"
)

func collect(t *testing.T, l *Log, req *wherryv1.StreamLogRequest) []string {
	t.Helper()
	var out []string
	if err := l.Stream(t.Context(), req, func(x *wherryv1.LogLine) error { out = append(out, x.Text); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLogTailAndConsole(t *testing.T) {
	l := NewLog()
	var console bytes.Buffer
	log := slog.New(l.Handler(slog.LevelInfo, &console))
	log.Debug("not kept")
	for i := range 10 {
		log.Info("line", "n", i)
	}
	log.With("subsystem", "network").Warn("no address")
	got := collect(t, l, &wherryv1.StreamLogRequest{Tail: 2})
	if len(got) != 2 || got[0] != `level=INFO msg=line n=9` || got[1] != `level=WARN msg="no address" subsystem=network` {
		t.Errorf("tail: %q", got)
	}
	if n := len(collect(t, l, &wherryv1.StreamLogRequest{})); n != 11 {
		t.Errorf("%d lines kept, want 11", n)
	}
	if c := console.String(); strings.Count(c, "\n") != 1 || !strings.Contains(c, "no address") {
		t.Errorf("console: %q", c)
	}
}

// TestLogBounds fills the ring by number and by bytes.
func TestLogBounds(t *testing.T) {
	l := NewLog()
	for i := range maxLines + 10 {
		l.add(time.Now(), fmt.Sprint(i))
	}
	got := collect(t, l, &wherryv1.StreamLogRequest{})
	if len(got) != maxLines || got[0] != "10" || got[len(got)-1] != fmt.Sprint(maxLines+9) {
		t.Errorf("%d lines from %s to %s", len(got), got[0], got[len(got)-1])
	}
	long := strings.Repeat("x", maxLineBytes)
	for range 300 {
		l.add(time.Now(), long)
	}
	total := 0
	for _, s := range collect(t, l, &wherryv1.StreamLogRequest{}) {
		total += len(s)
	}
	if total > maxBytes || total < maxBytes/2 || total != l.bytes {
		t.Errorf("kept %d bytes, counted %d, bound %d", total, l.bytes, maxBytes)
	}
}

func TestFollow(t *testing.T) {
	l := NewLog()
	l.add(time.Now(), "before")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	lines := make(chan string)
	ended := make(chan error, 1)
	go func() {
		ended <- l.Stream(ctx, &wherryv1.StreamLogRequest{Follow: true}, func(x *wherryv1.LogLine) error { lines <- x.Text; return nil })
	}()
	if got := <-lines; got != "before" {
		t.Fatalf("got %q", got)
	}
	// A reader that sleeps while more comes than the ring holds is told.
	for i := range maxLines * 2 {
		l.add(time.Now(), fmt.Sprint(i))
	}
	sawLoss := false
	for s := range lines {
		sawLoss = sawLoss || strings.Contains(s, "missed")
		if s == fmt.Sprint(maxLines*2-1) {
			break
		}
	}
	if !sawLoss {
		t.Error("lines were lost silently")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestParseRecord(t *testing.T) {
	boot := time.Unix(1000, 0)
	got := parseRecord("6,339,5140900,-;NET: Registered protocol family 10\n SUBSYSTEM=net\n", boot)
	if got == nil || got.Text != "NET: Registered protocol family 10" || !got.Time.AsTime().Equal(boot.Add(5140900*time.Microsecond)) {
		t.Errorf("got %v", got)
	}
	for _, bad := range []string{"", "no semicolon", "1,2;x", "6,1,abc,-;x"} {
		if got := parseRecord(bad, boot); got != nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}
