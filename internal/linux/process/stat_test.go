// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseStat(t *testing.T) {
	const line = "10 (a) b) S 7 10 10 0 -1 4194560 100 0 0 0 150 50 3 4 20 0 8 0 98765 1000 200"
	got, err := parseStat(line)
	want := Stat{Parent: 7, State: "S", Start: 987650 * time.Millisecond, CPU: 2 * time.Second, Memory: 200 * uint64(os.Getpagesize()), Command: "[a) b]"}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	for _, bad := range []string{"", "10 sh S 1", "10 )(", "10 (sh) S 1 2 3"} {
		if _, err := parseStat(bad); err == nil {
			t.Errorf("%q is no error", bad)
		}
	}
}

func TestReadStatOfSelf(t *testing.T) {
	s, err := ReadStat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now().Add(s.Start - SinceBoot())
	if s.Parent != os.Getppid() || s.UserID != uint32(os.Geteuid()) || s.Memory == 0 || !strings.Contains(s.Command, "test") || time.Since(began).Abs() > time.Hour {
		t.Errorf("%+v, began %v", s, began)
	}
	if _, err := ReadStat(1 << 30); err == nil {
		t.Error("a process that can't be is described")
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("10 (sh) S 1 10 10 0 -1 4194560 100 0 0 0 1 2 3 4 20 0 8 0 98765 1000 200")
	f.Fuzz(func(t *testing.T, stat string) { parseStat(stat) })
}
