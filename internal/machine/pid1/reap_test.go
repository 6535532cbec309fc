// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/linux/process"
)

// TestReap makes the test's own process the one that orphans are given to,
// and runs the real reaper.
func TestReap(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Skip(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	file := filepath.Join(t.TempDir(), "reaped")
	r := newReaper(file)
	go r.run()

	// The child's own child outlives it and becomes an orphan that exits with 7.
	c, err := r.start("/bin/sh", []string{"sh", "-c", "(sleep 0.2; exit 7) & exit 3"}, nil, "/none")
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the child's end was not noticed")
	}
	if got := c.Outcome(); got != "exit code 3" || c.exit.Start == 0 {
		t.Errorf("outcome %q, start time %d", got, c.exit.Start)
	}
	if err := c.Signal(unix.SIGKILL); err != unix.ESRCH {
		t.Errorf("a reaped process was signalled: %v", err)
	}
	if !wait(func() bool { return strings.Contains(read(t, file), fmt.Sprintf(" %d ", 7<<8)) }) {
		t.Errorf("the orphan's exit is not recorded: %q", read(t, file))
	}
	for line := range strings.Lines(read(t, file)) {
		var pid int
		var start, status, at uint64
		if n, err := fmt.Sscanf(line, "%d %d %d %d\n", &pid, &start, &status, &at); n != 4 || err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if pid == c.Pid() || start == 0 || time.Since(time.Unix(0, int64(at))) > time.Minute {
			t.Errorf("%q: not the orphan, or not now", line)
		}
	}
}

func wait(f func() bool) bool {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if f() {
			return true
		}
	}
	return false
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(b)
}

// TestRecordIsBounded records three times what is kept.
func TestRecordIsBounded(t *testing.T) {
	r := newReaper(filepath.Join(t.TempDir(), "reaped"))
	const total = 3 * 2 * maxRecords
	for n := range total {
		if err := r.record([]process.Exit{{Pid: n, Start: 1}}, time.Unix(0, 1)); err != nil {
			t.Fatal(err)
		}
	}
	text := read(t, r.file)
	if n := strings.Count(text, "\n"); n < maxRecords || n >= 2*maxRecords {
		t.Errorf("%d lines are kept", n)
	}
	if want := fmt.Sprintf("%d 1 0 1\n", total-1); !strings.HasSuffix(text, want) {
		t.Errorf("the newest line is lost")
	}
	if first, _, _ := strings.Cut(text, "\n"); len(strings.Fields(first)) != 4 {
		t.Errorf("the oldest line is torn: %q", first)
	}
}

func TestLastLines(t *testing.T) {
	for _, c := range []struct {
		text string
		n    int
		want string
	}{
		{"a\nb\nc\n", 2, "b\nc\n"}, {"a\nb\nc\n", 3, "a\nb\nc\n"}, {"a\n", 5, "a\n"}, {"", 1, ""}, {"a\nb\nc\n", 1, "c\n"},
	} {
		if got := string(lastLines([]byte(c.text), c.n)); got != c.want {
			t.Errorf("last %d of %q: %q", c.n, c.text, got)
		}
	}
}
