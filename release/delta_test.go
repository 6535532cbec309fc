// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// TestDeltas: deltas are not parts, and are found by the version and the part.
func TestDeltas(t *testing.T) {
	v, _ := ParseVersion("12.0.0")
	other, _ := ParseVersion("11.0.0")
	hash := strings.Repeat("ab", 32)
	d := Delta{File{"releases/12.1.0/core-amd64/" + DeltaName(OSFile, v), 5, hash}, OSFile, v, strings.Repeat("cd", 32)}
	raw, err := d.MarshalCustom()
	if err != nil {
		t.Fatal(err)
	}
	entry, err := Entry{}.MarshalCustom()
	if err != nil {
		t.Fatal(err)
	}
	target := func(n int64, custom json.RawMessage) *metadata.TargetFiles {
		f := &metadata.TargetFiles{Length: n, Hashes: metadata.Hashes{"sha256": make([]byte, 32)}}
		for i := range f.Hashes["sha256"] {
			f.Hashes["sha256"][i] = 0xab
		}
		if custom != nil {
			f.Custom = &custom
		}
		return f
	}
	folder := "releases/12.1.0/core-amd64/"
	all, err := parseTargets(metadata.TargetsType{Targets: map[string]*metadata.TargetFiles{
		folder + ManifestName: target(1, entry), folder + OSFile: target(100, nil), d.Path: target(5, raw),
	}})
	if err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	r := all[0]
	if len(r.Files) != 1 || r.Bytes() != 100 {
		t.Errorf("the parts are %v", r.Files)
	}
	got, ok := r.Delta(OSFile, v)
	if diff := cmp.Diff(d, got); diff != "" || !ok {
		t.Error(ok, diff)
	}
	for _, c := range []struct {
		part string
		from Version
	}{{"wherry.raw", v}, {OSFile, other}} {
		if _, ok := r.Delta(c.part, c.from); ok {
			t.Errorf("there is a delta of %s from %s", c.part, c.from)
		}
	}
	r.Deltas[0].Bytes = 100
	if _, ok := r.Delta(OSFile, v); ok {
		t.Error("a delta as large as the part was found")
	}
	for _, bad := range []string{`{"wherryDelta": {"part": "../x", "from": "12.0.0", "sha256": "` + hash + `"}}`, `{"wherryDelta": {"part": "x", "from": "12.0.0", "sha256": "ab"}}`, `{"wherryDelta": {"part": "x", "from": "?", "sha256": "` + hash + `"}}`} {
		_, err := parseTargets(metadata.TargetsType{Targets: map[string]*metadata.TargetFiles{folder + ManifestName: target(1, entry), d.Path: target(5, json.RawMessage(bad))}})
		if err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}
