// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseStart(t *testing.T) {
	const rest = " S 1 10 10 0 -1 4194560 100 0 0 0 1 2 3 4 20 0 8 0 98765 1000 200"
	for stat, want := range map[string]uint64{
		"10 (sh)" + rest:                         98765,
		"10 (a) S 1 2 3 (b)" + rest:              98765,
		"10 ()" + rest:                           98765,
		"10 (sh":                                 0,
		"":                                       0,
		"10 (sh) S 1 2":                          0,
		"10 (sh)" + strings.Repeat(" x", 30):     0,
		"10 (sh) S" + strings.Repeat(" -1", 30):  0,
		"10 (sh) S" + strings.Repeat(" 1e9", 30): 0,
	} {
		got, err := parseStart(stat)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("%.40q: %d, %v", stat, got, err)
		}
	}
}

func TestSelf(t *testing.T) {
	if start, err := StartTime(os.Getpid()); err != nil || start == 0 {
		t.Errorf("own start time: %d, %v", start, err)
	}
	found := false
	for _, pid := range Alive() {
		found = found || pid == os.Getpid()
	}
	if !found && os.Getpid() != 1 {
		t.Error("this process is not alive")
	}
	if Name(os.Getpid()) == "?" {
		t.Error("this process has no name")
	}
}

func TestDescribe(t *testing.T) {
	for status, want := range map[unix.WaitStatus]string{0: "exit code 0", 7 << 8: "exit code 7", 9: "killed by SIGKILL", 0x8b: "killed by SIGSEGV"} {
		if got := Describe(status); got != want {
			t.Errorf("%#x: %s, want %s", uint32(status), got, want)
		}
	}
}

func FuzzParseStart(f *testing.F) {
	f.Add("10 (sh) S 1 10 10 0 -1 4194560 100 0 0 0 1 2 3 4 20 0 8 0 98765 1000 200")
	f.Fuzz(func(t *testing.T, stat string) { parseStart(stat) })
}
