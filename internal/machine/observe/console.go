// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	// maxConsoleLine is a few lines of a screen.
	maxConsoleLine = 300
	// The console says the same thing once in this time. What is tried again and again is in the log.
	repeatAfter = 5 * time.Minute
	maxRepeats  = 64
)

// consoleHandler writes warnings and errors for people: what happened, the
// circumstances in brackets, and the cause in the end.
type consoleHandler struct {
	to    *consoleWriter
	attrs []slog.Attr
	group string
}

type consoleWriter struct {
	mu   sync.Mutex
	out  io.Writer
	said map[string]time.Time
}

func newConsoleHandler(out io.Writer) slog.Handler {
	return consoleHandler{to: &consoleWriter{out: out, said: map[string]time.Time{}}}
}

func (consoleHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

func (h consoleHandler) WithGroup(name string) slog.Handler {
	h.group += name + "."
	return h
}

func (h consoleHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.attrs = append(append([]slog.Attr{}, h.attrs...), h.named(attrs)...)
	return h
}

func (h consoleHandler) named(attrs []slog.Attr) []slog.Attr {
	out := make([]slog.Attr, 0, len(attrs))
	for _, a := range attrs {
		out = append(out, slog.Attr{Key: h.group + a.Key, Value: a.Value.Resolve()})
	}
	return out
}

func (h consoleHandler) Handle(_ context.Context, r slog.Record) error {
	attrs := append([]slog.Attr{}, h.attrs...)
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, h.named([]slog.Attr{a})...)
		return true
	})
	return h.to.say(r.Level, consoleText(r.Message, attrs))
}

func consoleText(message string, attrs []slog.Attr) string {
	var circumstances []string
	cause := ""
	for _, a := range attrs {
		switch a.Key {
		case "err", "error":
			cause = ": " + a.Value.String()
		default:
			circumstances = append(circumstances, a.Key+" "+a.Value.String())
		}
	}
	if len(circumstances) > 0 {
		message += " (" + strings.Join(circumstances, ", ") + ")"
	}
	return oneLine(message + cause)
}

// oneLine keeps text from outside from drawing on the screen.
func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "?"), func(r rune) bool {
		return r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029'
	}), " ")
	if r := []rune(s); len(r) > maxConsoleLine {
		return string(r[:maxConsoleLine-1]) + "…"
	}
	return s
}

func (w *consoleWriter) say(level slog.Level, text string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at, ok := w.said[text]; ok && time.Since(at) < repeatAfter {
		return nil
	}
	if len(w.said) >= maxRepeats {
		clear(w.said)
	}
	w.said[text] = time.Now()
	kind := "warning"
	if level >= slog.LevelError {
		kind = "error"
	}
	_, err := fmt.Fprintf(w.out, "wherry: %s: %s\n", kind, text)
	return err
}
