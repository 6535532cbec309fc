// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package observe keeps the machine's own log and hands it to the API.
//
// Everything that wherryd logs goes into a ring in memory, bounded in lines and
// bytes, and from warnings on to the console too. Followers read the ring at
// their own pace: one that is too slow is told how many lines it missed, and
// never holds up who writes. The kernel's log is read from /dev/kmsg when asked
// for. Nothing is written to disk; on failure of the console a line is in the
// ring all the same.
package observe

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"wherry.example/wherry/api/wherryv1"
)

const (
	maxLines     = 5000
	maxLineBytes = 8 << 10
	maxBytes     = 1 << 20
)

type line struct {
	at   time.Time
	text string
}

// Log is wherryd's log. It is safe for concurrent use.
type Log struct {
	mu      sync.Mutex
	lines   []line // a ring that grows to maxLines: the line with number n is at n % maxLines
	first   uint64 // number of the oldest line kept
	next    uint64 // number of the line that comes next
	bytes   int
	changed chan struct{} // closed at each new line
}

// NewLog returns a log with nothing in it.
func NewLog() *Log {
	return &Log{changed: make(chan struct{})}
}

// Handler returns a handler that writes to the log from level on, and to the
// console from slog.LevelWarn on. A nil console is none.
func (l *Log) Handler(level slog.Leveler, console io.Writer) slog.Handler {
	ring := slog.NewTextHandler(ringWriter{l}, &slog.HandlerOptions{Level: level, ReplaceAttr: withoutTime})
	if console == nil {
		return ring
	}
	return slog.NewMultiHandler(ring, newConsoleHandler(console))
}

// withoutTime leaves the time out of the text: each line carries it beside.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

type ringWriter struct{ log *Log }

func (w ringWriter) Write(p []byte) (int, error) {
	w.log.add(time.Now(), strings.TrimRight(string(p[:min(len(p), maxLineBytes)]), "\n"))
	return len(p), nil
}

func (l *Log) add(at time.Time, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	text = strings.ToValidUTF8(text, "?")
	for l.next-l.first >= maxLines || (l.next > l.first && l.bytes+len(text) > maxBytes) {
		l.dropOldestLocked()
	}
	slot := int(l.next % maxLines)
	if slot == len(l.lines) {
		l.lines = append(l.lines, line{})
	}
	l.lines[slot] = line{at, text}
	l.next++
	l.bytes += len(text)
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *Log) dropOldestLocked() {
	at := l.first % maxLines
	l.bytes -= len(l.lines[at].text)
	l.lines[at] = line{}
	l.first++
}

// read returns the lines from number from on, the number after them, and a
// channel that is closed when there are more.
func (l *Log) read(from uint64) (lines []line, lost uint64, next uint64, more <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if from < l.first {
		lost, from = l.first-from, l.first
	}
	for n := from; n < l.next; n++ {
		lines = append(lines, l.lines[n%maxLines])
	}
	return lines, lost, l.next, l.changed
}

// tail returns the number of the line with which the last n begin; 0: the oldest.
func (l *Log) tail(n uint32) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n == 0 || l.next-l.first <= uint64(n) {
		return l.first
	}
	return l.next - uint64(n)
}

// Stream sends the log as req asks, until ctx ends when it follows.
func (l *Log) Stream(ctx context.Context, req *wherryv1.StreamLogRequest, send func(*wherryv1.LogLine) error) error {
	if req.Kernel {
		return streamKernel(ctx, kmsg, req, send)
	}
	at := l.tail(req.Tail)
	for {
		lines, lost, next, more := l.read(at)
		at = next
		if lost > 0 {
			lines = append([]line{{time.Now(), fmt.Sprintf("(%d lines were missed: they came faster than they were read)", lost)}}, lines...)
		}
		for _, ln := range lines {
			if err := send(&wherryv1.LogLine{Time: timestamppb.New(ln.at), Text: ln.text}); err != nil {
				return err
			}
		}
		if !req.Follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-more:
		}
	}
}
