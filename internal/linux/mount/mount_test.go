// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestString(t *testing.T) {
	for want, m := range map[string]Mount{
		"tmpfs /run tmpfs nosuid,nodev,mode=0755": {Source: "tmpfs", Target: "/run", Type: "tmpfs", Flags: unix.MS_NOSUID | unix.MS_NODEV, Data: "mode=0755"},
		"proc /proc proc defaults":                {Source: "proc", Target: "/proc", Type: "proc"},
		"/init /x - bind":                         {Source: "/init", Target: "/x", Flags: unix.MS_BIND},
	} {
		if got := m.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestDoLeavesOutWhatIsNotThere(t *testing.T) {
	if err := (Mount{Target: "/no/such", Type: "nosuchfs", Needs: "/no/such"}).Do(); err != nil {
		t.Errorf("needs what is missing: %v", err)
	}
	if err := (Mount{Target: "/no/such", Type: "nosuchfs", Optional: true}).Do(); err != nil {
		t.Errorf("optional: %v", err)
	}
	err := (Mount{Target: "/no/such", Type: "nosuchfs"}).Do()
	if err == nil || !strings.Contains(err.Error(), "mount /no/such (nosuchfs)") {
		t.Errorf("neither: %v", err)
	}
}

func TestParse(t *testing.T) {
	const text = `22 1 7:0 / / ro,nodev - squashfs /dev/loop0 ro
23 22 0:5 / /dev rw,nosuid - devtmpfs devtmpfs rw
40 22 254:0 / /state rw shared:1 master:2 - xfs /dev/vda rw,prjquota
41 22 254:0 /a\040b /mnt\134x/a\011b rw - xfs /dev/vda rw
garbage
42 22 0:1 / /x rw -
`
	want := []Entry{
		{"7:0", "/", "squashfs", "/dev/loop0"}, {"0:5", "/dev", "devtmpfs", "devtmpfs"},
		{"254:0", "/state", "xfs", "/dev/vda"}, {"254:0", "/mnt\\x/a\tb", "xfs", "/dev/vda"},
	}
	if diff := cmp.Diff(want, Parse(text)); diff != "" {
		t.Error(diff)
	}
}

func TestList(t *testing.T) {
	all, err := List()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if e.Target == "/proc" && e.Type == "proc" {
			return
		}
	}
	if _, err := os.Stat("/proc/self"); err == nil {
		t.Errorf("/proc is not among %d mounts", len(all))
	}
}

func FuzzParse(f *testing.F) {
	f.Add("40 22 254:0 / /state rw shared:1 - xfs /dev/vda rw\n")
	f.Add(`1 1 1:1 / /\0400\04\999 rw - a b`)
	f.Fuzz(func(t *testing.T, text string) {
		if n := len(Parse(text)); n > strings.Count(text, "\n")+1 {
			t.Errorf("%d entries", n)
		}
	})
}
