// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package bootslots

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func slots(running string, names ...string) []Slot {
	var files []file
	for _, n := range names {
		files = append(files, file{n, 1})
	}
	out, _ := slotsOf(files, running)
	return out
}

func TestSlots(t *testing.T) {
	files := []file{
		{"wherry_2.0.0.efi", 1}, {"WHERRY_10.0.0+2-1.EFI", 2}, {"wherry_9.0.0+0-3.efi", 3}, {"other_1.0.0.efi", 4},
		{"wherry_2.0.0+2-1.efi", 1}, // the other name of a rename that a power cut interrupted
		{"wherry_.efi", 5}, {".wherry_3.0.0.efi", 6}, {"wherry_3.0.0.conf", 7},
	}
	got, dirty := slotsOf(files, "wherry_2.0.0")
	want := []Slot{
		{Version: "10.0.0", File: "WHERRY_10.0.0+2-1.EFI", Bytes: 2, Trial: true, TriesLeft: 2, TriesDone: 1},
		{Version: "9.0.0", File: "wherry_9.0.0+0-3.efi", Bytes: 3, Trial: true, TriesDone: 3, Bad: true},
		{Version: "2.0.0", File: "wherry_2.0.0.efi", Bytes: 1, Running: true},
	}
	if diff := cmp.Diff(want, got); diff != "" || dirty {
		t.Error(dirty, diff)
	}
	for name, want := range map[string]bool{"wherry_3.0.0.tmp": true, "WHERRY_3.TMP": true, "x.tmp": false, "wherry_3.0.0.efi.bak": false} {
		if _, dirty := slotsOf([]file{{name, 1}}, ""); dirty != want {
			t.Errorf("%s: leftover %v", name, dirty)
		}
	}
}

// The power went while a file was blessed: its new name leads to nothing yet. The
// file that runs is the one with the old name, and still to be blessed.
func TestNameWithoutContents(t *testing.T) {
	files := []file{{"wherry_2.0.0.efi", 0}, {"wherry_2.0.0+1-2.efi", 9}, {"wherry_1.0.0.efi", 9}, {"wherry_3.0.0+3.efi", 0}}
	got, dirty := slotsOf(files, "wherry_2.0.0")
	want := []Slot{
		{Version: "2.0.0", File: "wherry_2.0.0+1-2.efi", Bytes: 9, Running: true, Trial: true, TriesLeft: 1, TriesDone: 2},
		{Version: "1.0.0", File: "wherry_1.0.0.efi", Bytes: 9},
	}
	if diff := cmp.Diff(want, got); diff != "" || !dirty {
		t.Error(dirty, diff)
	}
	if from, to, err := planBless(got, true); err != nil || from != "wherry_2.0.0+1-2.efi" || to != "wherry_2.0.0.efi" {
		t.Errorf("%s becomes %s, %v", from, to, err)
	}
}

// What is started next, as systemd-boot orders files.
func TestNext(t *testing.T) {
	for names, want := range map[string]string{
		"":                                     "",
		"wherry_1.0.0.efi":                     "1.0.0",
		"wherry_1.0.0.efi wherry_2.0.0+3.efi":  "2.0.0",
		"wherry_9.0.0.efi wherry_10.0.0.efi":   "10.0.0",
		"wherry_1.0.0.efi wherry_2.0.0+0.efi":  "1.0.0",
		"wherry_1.0.0+0-3.efi wherry_2+0.efi":  "",
		"wherry_1.0.0.efi wherry_nonsense.efi": "1.0.0",
	} {
		got, _ := next(slots("", strings.Fields(names)...))
		if got.Version != want {
			t.Errorf("%q: %q, want %q", names, got.Version, want)
		}
	}
}

func TestPlanBless(t *testing.T) {
	for _, c := range []struct {
		name          string
		slots         []Slot
		trial         bool
		from, to, err string
	}{
		{"on its first try", slots("wherry_2.0.0", "wherry_1.0.0.efi", "wherry_2.0.0+2-1.efi"), true, "wherry_2.0.0+2-1.efi", "wherry_2.0.0.efi", ""},
		{"on its last", slots("wherry_2.0.0", "wherry_1.0.0.efi", "wherry_2.0.0+0-3.efi"), true, "wherry_2.0.0+0-3.efi", "wherry_2.0.0.efi", ""},
		{"twice", slots("wherry_2.0.0", "wherry_2.0.0.efi"), true, "wherry_2.0.0.efi", "wherry_2.0.0.efi", ""},
		{"the new one did not load", slots("wherry_1.0.0", "wherry_1.0.0.efi", "wherry_2.0.0+2-1.efi"), false, "wherry_1.0.0.efi", "wherry_1.0.0.efi", ""},
		{"chosen by hand, not counted", slots("wherry_2.0.0", "wherry_2.0.0+2-1.efi"), false, "", "", "not what was on trial"},
		{"retired before", slots("wherry_2.0.0", "wherry_1.0.0.efi", "wherry_2.0.0+0-1.efi"), true, "", "", "retired"},
		{"gone", slots("wherry_3.0.0", "wherry_1.0.0.efi"), true, "", "", "gone"},
		{"a rename that was cut", slots("wherry_2.0.0", "wherry_2.0.0+2-1.efi", "wherry_2.0.0.efi"), true, "wherry_2.0.0.efi", "wherry_2.0.0.efi", ""},
	} {
		from, to, err := planBless(c.slots, c.trial)
		check(t, c.name, [2]string{from, to}, [2]string{c.from, c.to}, err, c.err)
	}
}

func TestPlanRetire(t *testing.T) {
	old := []string{"wherry_1.0.0.efi", "wherry_2.0.0.efi"}
	for _, c := range []struct {
		name, version string
		slots         []Slot
		from, to, err string
	}{
		{"a trial", "2.0.0", slots("wherry_2.0.0", "wherry_1.0.0.efi", "wherry_2.0.0+2-1.efi"), "wherry_2.0.0+2-1.efi", "wherry_2.0.0+0-1.efi", ""},
		{"one on its last try", "2.0.0", slots("wherry_2.0.0", "wherry_1.0.0.efi", "wherry_2.0.0+0-3.efi"), "wherry_2.0.0+0-3.efi", "wherry_2.0.0+0-2.efi", ""},
		{"the running one", "2.0.0", slots("wherry_2.0.0", old...), "wherry_2.0.0.efi", "wherry_2.0.0+0.efi", ""},
		{"an old one", "1.0.0", slots("wherry_2.0.0", old...), "wherry_1.0.0.efi", "wherry_1.0.0+0.efi", ""},
		{"twice", "1.0.0", slots("wherry_2.0.0", "wherry_1.0.0+0.efi", "wherry_2.0.0.efi"), "wherry_1.0.0+0.efi", "wherry_1.0.0+0.efi", ""},
		{"the only one", "1.0.0", slots("wherry_1.0.0", "wherry_1.0.0.efi"), "", "", "no other"},
		{"the only good one", "2.0.0", slots("wherry_2.0.0", "wherry_1.0.0+0-3.efi", "wherry_2.0.0.efi"), "", "", "no other"},
		{"one that is not there", "3.0.0", slots("wherry_2.0.0", old...), "", "", "no such"},
	} {
		from, to, err := planRetire(c.slots, c.version)
		check(t, c.name, [2]string{from, to}, [2]string{c.from, c.to}, err, c.err)
		if err != nil {
			continue
		}
		if _, n, ok := versionOf(to); !ok || !n.Bad() {
			t.Errorf("%s: %s would be started", c.name, to)
		}
	}
}

func TestPlanStageAndRemove(t *testing.T) {
	three := []string{"wherry_1.0.0.efi", "wherry_2.0.0.efi", "wherry_3.0.0+3.efi"}
	trial := []string{"wherry_1.0.0.efi", "wherry_2.0.0+2-1.efi"}
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"the first update", planStage(slots("wherry_1.0.0", "wherry_1.0.0.efi"), "2.0.0"), ""},
		{"written anew", planStage(slots("wherry_2.0.0", three...), "3.0.0"), ""},
		{"a fourth", planStage(slots("wherry_2.0.0", three...), "4.0.0"), "no room"},
		{"the running one", planStage(slots("wherry_2.0.0", three...), "2.0.0"), "runs"},
		{"an older one", planStage(slots("wherry_2.0.0", three...), "1.5.0"), "older"},
		{"a name that is a path", planStage(nil, "../1.0.0"), "version"},

		{"removed: the previous", mayRemove(slots("wherry_2.0.0", three...), "1.0.0"), ""},
		{"removed: the staged", mayRemove(slots("wherry_2.0.0", three...), "3.0.0"), ""},
		{"removed: the running", mayRemove(slots("wherry_2.0.0", three...), "2.0.0"), "runs"},
		{"removed: what a trial goes back to", mayRemove(slots("wherry_2.0.0", trial...), "1.0.0"), "goes back"},
		{"removed: unknown", mayRemove(slots("wherry_2.0.0", trial...), "1.0.1"), "no such"},
	} {
		check(t, c.name, 0, 0, c.err, c.want)
	}
}

func check[T any](t *testing.T, name string, got, want T, err error, wantErr string) {
	t.Helper()
	if (err == nil) != (wantErr == "") || err != nil && !strings.Contains(err.Error(), wantErr) {
		t.Errorf("%s: error %v, want %q", name, err, wantErr)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
}
