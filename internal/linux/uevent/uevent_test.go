// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package uevent

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	got, err := Parse([]byte("add@/devices/pci0000:00/0000:00:02.0\x00ACTION=add\x00MODALIAS=pci:v1d2\x00EMPTY=\x00=x\x00junk\x00"))
	if err != nil {
		t.Fatal(err)
	}
	want := Event{Action: "add", Path: "/devices/pci0000:00/0000:00:02.0", Vars: map[string]string{"ACTION": "add", "MODALIAS": "pci:v1d2", "EMPTY": ""}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, msg := range []string{"", "add", "@/x", "add@x", "libudev\x00", "add@/x" + strings.Repeat("\x00A=B", maxVars)} {
		if e, err := Parse([]byte(msg)); err == nil {
			t.Errorf("%.20q was read as %+v", msg, e)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("add@/devices/x\x00ACTION=add\x00SEQNUM=1\x00"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		e, err := Parse(msg)
		if err == nil && (e.Action == "" || !strings.HasPrefix(e.Path, "/") || len(e.Vars) > maxVars) {
			t.Errorf("%q gave %+v", msg, e)
		}
	})
}
