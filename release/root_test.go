// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release_test

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
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

// trusts asks whom a machine trusts that keeps a store.
func (p *project) trusts(image []byte, store release.Store) int64 {
	p.t.Helper()
	r, err := release.Trusted(image, store)
	p.check(err)
	return r.Version
}

// What a machine has kept of the chain tells whom it trusts, and never keeps it from finding the way again.
func TestTrusted(t *testing.T) {
	p := newProject(t)
	store := memory{}
	if got := p.trusts(p.firstRoot, store); got != 1 {
		t.Errorf("nothing is kept: root %d", got)
	}
	p.rotate("root")
	second := p.get("metadata/2.root.json")
	p.rotate("timestamp")
	if _, err := p.refresh(store); err != nil {
		t.Fatal(err)
	}
	if got := p.trusts(p.firstRoot, store); got != 3 {
		t.Errorf("newer ones are kept: root %d", got)
	}
	if got := p.trusts(p.get("metadata/3.root.json"), store); got != 3 {
		t.Errorf("the image has the newest, and older ones are kept: root %d", got)
	}
	other := newProjectOf(t, 1)
	other.rotate("root")
	changed := bytes.Replace(second, []byte(`"threshold":2`), []byte(`"threshold":1`), 1)
	for name, bad := range map[string][]byte{
		"empty": {}, "cut": second[:len(second)/2], "junk": []byte("{}"), "null": []byte(`{"signed":null}`), "changed": changed,
		"another project's": other.get("metadata/2.root.json"), "older": p.firstRoot, "newer": p.get("metadata/3.root.json"), "endless": bytes.Repeat([]byte(" "), 65<<10),
	} {
		kept := maps.Clone(store)
		kept["2.root.json"] = bad
		if got := p.trusts(p.firstRoot, kept); got != 1 {
			t.Errorf("%s: root %d", name, got)
		}
		if _, err := p.refresh(kept); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := p.trusts(p.firstRoot, kept); got != 3 || !bytes.Equal(kept["2.root.json"], second) {
			t.Errorf("%s: root %d after asking again", name, got)
		}
	}
	if _, err := release.Trusted(p.firstRoot[1:], store); err == nil {
		t.Error("an image without a root role trusts somebody")
	}
}

// A machine that goes back to a release with an older root role does not go back to the keys of then,
// though its repository hides the links from it, and somebody has those keys.
func TestTrustedAfterGoingBack(t *testing.T) {
	p := newProject(t)
	stolen := p.keys["timestamp"]
	p.rotate("timestamp")
	second := p.get("metadata/2.root.json")
	store := memory{}
	c := p.config(release.Dir(p.dir), store)
	c.Root = second // the release that was left
	if _, err := release.Refresh(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	p.keys["timestamp"] = stolen
	p.commitTimestamp()
	p.check(os.Remove(filepath.Join(p.dir, "metadata", "2.root.json")))
	if _, err := p.refresh(store); !errors.Is(err, release.ErrSignature) {
		t.Errorf("the stolen key counts again: %v", err)
	}
	if got := p.trusts(p.firstRoot, store); got != 2 {
		t.Errorf("root %d", got)
	}
	if _, err := p.refresh(memory{}); err != nil {
		t.Errorf("the attack does not work where nothing is kept, so that this proves nothing: %v", err)
	}
}
