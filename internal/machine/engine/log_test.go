// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"wherry.example/wherry/api/wherryv1"
)

func testLog(t testing.TB, bytes uint64, files uint32) *logFile {
	return newLogFile(t.TempDir(), &wherryv1.LogOptions{MaxBytes: bytes, MaxFiles: files}, slog.New(slog.DiscardHandler))
}

func readLog(t *testing.T, l *logFile, from position) string {
	t.Helper()
	var b strings.Builder
	r := l.reader(from)
	defer r.close()
	if err := r.drain(t.Context(), func(f frame) error { b.Write(f.data); return nil }); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestLogTail(t *testing.T) {
	l := testLog(t, 0, 0)
	l.write(wherryv1.Stream_STREAM_STDOUT, []byte("one\ntwo\nthr"), unheld{})
	l.write(wherryv1.Stream_STREAM_STDOUT, []byte("ee\nfour"), unheld{})
	for n, want := range map[uint32]string{0: "", 1: "four", 2: "three\nfour", 3: "two\nthree\nfour", 4: "one\ntwo\nthree\nfour", 99: "one\ntwo\nthree\nfour"} {
		p, err := l.tail(n, time.Time{})
		if got := readLog(t, l, p); err != nil || got != want {
			t.Errorf("last %d lines: %q, %v", n, got, err)
		}
	}
	until := time.Now()
	time.Sleep(time.Millisecond)
	l.write(wherryv1.Stream_STREAM_STDOUT, []byte("\nfive\nsix\n"), unheld{})
	if p, err := l.tail(2, until); err != nil || !strings.HasPrefix(readLog(t, l, p), "three\nfour") {
		t.Errorf("last 2 lines until before the end: %q, %v", readLog(t, l, p), err)
	}
}

func TestLogRotation(t *testing.T) {
	l := testLog(t, 1000, 3)
	reader := l.reader(l.start())
	defer reader.close()
	var followed, all strings.Builder
	for i := range 500 {
		line := fmt.Sprintf("line %d\n", i)
		all.WriteString(line)
		l.write(wherryv1.Stream(i%2), []byte(line), unheld{})
		if i%10 == 0 {
			if err := reader.drain(t.Context(), func(f frame) error { followed.Write(f.data); return nil }); err != nil {
				t.Fatal(err)
			}
		}
	}
	reader.drain(t.Context(), func(f frame) error { followed.Write(f.data); return nil })
	if followed.String() != all.String() {
		t.Error("a follower that keeps up misses lines at a rotation")
	}
	if n := len(l.sequence()); n != 3 {
		t.Errorf("%d files are kept", n)
	}
	if size := l.totalBytes(); size > 3*1000 {
		t.Errorf("%d bytes are kept", size)
	}
	kept := readLog(t, l, l.start())
	if !strings.HasSuffix(all.String(), kept) || len(kept) < 1000/4 {
		t.Errorf("what is kept is not the end of what was written: %q", kept)
	}
	if p := l.since(time.Now().Add(time.Hour)); p.seq != l.seq {
		t.Errorf("nothing is newer than the future, yet reading begins at %v", p)
	}
	if p := l.since(time.Now().Add(-time.Hour)); p != l.start() {
		t.Errorf("all is newer than an hour ago, yet reading begins at %v", p)
	}
	if p, err := l.tail(60, time.Time{}); err != nil || strings.Count(readLog(t, l, p), "\n") != 60 {
		t.Errorf("tail across files: %v, %v", p, err)
	}
	// One that was rotated away from goes on with what is there.
	if got := readLog(t, l, position{1, 0}); got != kept {
		t.Errorf("a follower that fell behind reads %q", got)
	}
}

func TestLogIsReopened(t *testing.T) {
	l := testLog(t, 0, 0)
	l.write(wherryv1.Stream_STREAM_STDOUT, []byte("before\n"), unheld{})
	l.closeFile()
	path := l.path(1)
	whole, _ := os.ReadFile(path)
	torn := appendFrames(nil, wherryv1.Stream_STREAM_STDOUT, time.Now(), []byte("torn line\n"))
	for cut := 1; cut < len(torn); cut++ {
		os.WriteFile(path, append(bytes.Clone(whole), torn[:cut]...), 0o600)
		again := newLogFile(l.dir, nil, l.log)
		again.write(wherryv1.Stream_STREAM_STDERR, []byte("after\n"), unheld{})
		again.closeFile()
		if got := readLog(t, again, again.start()); got != "before\nafter\n" {
			t.Fatalf("torn after %d bytes: %q", cut, got)
		}
	}
}

func TestLogFollow(t *testing.T) {
	l := testLog(t, 0, 0)
	var got bytes.Buffer
	ended := make(chan struct{})
	done := make(chan error, 1)
	r := l.reader(l.start())
	defer r.close()
	go func() {
		done <- r.follow(context.Background(), func() (bool, <-chan struct{}) {
			select {
			case <-ended:
				return true, ended
			default:
				return false, ended
			}
		}, func(f frame) error { got.Write(f.data); return nil }, nil)
	}()
	for i := range 100 {
		l.write(wherryv1.Stream_STREAM_STDOUT, fmt.Appendf(nil, "%d\n", i), unheld{})
	}
	close(ended)
	if err := <-done; err != nil || strings.Count(got.String(), "\n") != 100 {
		t.Errorf("%v, %q", err, got.String())
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(appendFrames(nil, wherryv1.Stream_STREAM_STDERR, time.Unix(1, 2), []byte("a\nb")))
	f.Add([]byte{frameMagic, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		end := soundEnd(r, int64(len(b)))
		s := newFrameScanner(r, 0)
		for {
			fr, err := s.next(int64(len(b)))
			if err != nil {
				break
			}
			if len(fr.data) > maxFrameData {
				t.Fatal("a frame larger than any that is written")
			}
		}
		if end < 0 || end > int64(len(b)) {
			t.Fatalf("sound until %d of %d", end, len(b))
		}
		if _, err := r.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
	})
}
