// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release_test

import (
	"bytes"
	"errors"
	"testing"

	"wherry.example/wherry/release"
)

func TestParseRoot(t *testing.T) {
	p := newProject(t)
	good := p.firstRoot
	r, err := release.ParseRoot(good)
	if err != nil || r.Version != 1 || len(r.Keys) != 2 || r.Threshold != 2 || !r.Expires.Equal(p.now.Add(365*day)) {
		t.Errorf("%+v, %v", r, err)
	}
	oneSignature := p.writeRoot(p.root, p.keys["root"][:1])
	for name, data := range map[string][]byte{
		"nothing":               nil,
		"no root":               p.get("metadata/timestamp.json"),
		"one signature of two":  oneSignature,
		"changed after signing": bytes.Replace(good, []byte(`"version":1`), []byte(`"version":2`), 1),
		"endless":               append(bytes.Clone(good), bytes.Repeat([]byte(" "), 64<<10)...),
	} {
		if bytes.Equal(data, good) {
			t.Fatalf("%s: the case is the good root", name)
		}
		if r, err := release.ParseRoot(data); err == nil {
			t.Errorf("%s: accepted as %+v", name, r)
		}
	}
	if _, err := release.ParseRoot(oneSignature); !errors.Is(err, release.ErrSignature) {
		t.Errorf("one signature of two: %v", err)
	}
}
