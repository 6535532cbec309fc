// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pstore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, dir, name, text string, at time.Time) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, at, at); err != nil {
		t.Fatal(err)
	}
}

func TestTake(t *testing.T) {
	dir := t.TempDir()
	first, second := time.Unix(1700000000, 0), time.Unix(1700000100, 0)
	write(t, dir, "dmesg-efi_pstore-3", "Panic#2 Part1\n<0>[    9.1] Kernel panic - not syncing: sysrq triggered crash\n<4>[    9.2] end\n", second)
	write(t, dir, "dmesg-efi_pstore-2", "Panic#2 Part2\n<6>[    9.0] before\n", second.Add(time.Second))
	write(t, dir, "dmesg-efi_pstore-1", "Oops#1 Part1\n<1>[    5.0] BUG: unable to handle page fault\n<4> more\n", first)
	write(t, dir, "dmesg-efi_pstore-5", "Panic#2 Part1\n<0> at once again\n", second.Add(5*time.Second))
	write(t, dir, "dmesg-efi_pstore-4", "Panic#2 Part1\n<0> something else\n", second.Add(time.Hour))
	got, err := Take(dir)
	want := []Report{
		{"Oops", "BUG: unable to handle page fault", "<1>[    5.0] BUG: unable to handle page fault\n<4> more\n", first},
		{"Panic", "sysrq triggered crash", "<6>[    9.0] before\n<0>[    9.1] Kernel panic - not syncing: sysrq triggered crash\n<4>[    9.2] end\n", second},
		{"Panic", "<0> at once again", "<0> at once again\n", second.Add(5 * time.Second)},
		{"Panic", "<0> something else", "<0> something else\n", second.Add(time.Hour)},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	if again, err := Take(dir); len(again) != 0 || err != nil {
		t.Errorf("twice: %+v, %v", again, err)
	}
}

// What is no record makes way too: the room is the firmware's.
func TestTakeNonsense(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "dmesg-efi_pstore-1.enc.z", "\x78\x9c", time.Unix(1, 0))
	write(t, dir, "long", "Panic#1 Part1\n"+strings.Repeat("é", maxRecord), time.Unix(1, 0))
	got, err := Take(dir)
	if err == nil || !strings.Contains(err.Error(), "enc.z") || len(got) != 1 || len(got[0].Reason) > maxReason || len(got[0].Text) > maxRecord+3 {
		t.Errorf("%d reports, %v", len(got), err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%d files are left", len(left))
	}
	if got, err := Take(filepath.Join(dir, "none")); got != nil || err != nil {
		t.Errorf("without a store: %v, %v", got, err)
	}
}
