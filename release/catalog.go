// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Entry is what the targets role says about a release beside its files: the
// custom field of the manifest's target, under the name wherry.
type Entry struct {
	Published time.Time           `json:"published"`
	Channels  map[Channel]Rollout `json:"channels,omitempty"`
	Withdrawn *Withdrawal         `json:"withdrawn,omitempty"`
}

type custom struct {
	Wherry *Entry  `json:"wherry,omitempty"`
	Delta  *origin `json:"wherryDelta,omitempty"`
}

// MarshalCustom writes the entry as a target's custom field.
func (e Entry) MarshalCustom() (json.RawMessage, error) { return json.Marshal(custom{Wherry: &e}) }

// ParseEntry reads what MarshalCustom wrote.
func ParseEntry(raw *json.RawMessage) (Entry, error) {
	var c custom
	if raw == nil {
		return Entry{}, fmt.Errorf("no custom field")
	}
	if err := json.Unmarshal(*raw, &c); err != nil {
		return Entry{}, err
	}
	if c.Wherry == nil {
		return Entry{}, fmt.Errorf("no custom field named wherry")
	}
	for name, rollout := range c.Wherry.Channels {
		// A channel of a later Wherry is none of ours.
		if err := rollout.Validate(); err != nil {
			return Entry{}, fmt.Errorf("channel %.40q: %w", name, err)
		}
	}
	return *c.Wherry, nil
}

// Folder is where the files of a release lie among the targets.
func Folder(v Version, edition, arch string) string {
	return fmt.Sprintf("releases/%s/%s-%s", v, edition, arch)
}

// parseTargets makes releases out of signed targets. Targets outside of releases/
// are left alone: later versions may put other things there.
func parseTargets(t metadata.TargetsType) ([]Release, error) {
	found := map[string]*Release{}
	for _, name := range slices.Sorted(maps.Keys(t.Targets)) {
		if !strings.HasPrefix(name, "releases/") {
			continue
		}
		if err := addTarget(found, name, t.Targets[name]); err != nil {
			return nil, fmt.Errorf("target %.200q: %w", name, err)
		}
	}
	all := make([]Release, 0, len(found))
	for dir, r := range found {
		if r.Manifest.Path == "" {
			return nil, fmt.Errorf("target %s: there is no %s", dir, ManifestName)
		}
		all = append(all, *r)
	}
	slices.SortFunc(all, func(a, b Release) int {
		if c := newestFirst(a, b); c != 0 {
			return c
		}
		return strings.Compare(a.Manifest.Path, b.Manifest.Path)
	})
	return all, nil
}

func addTarget(found map[string]*Release, name string, t *metadata.TargetFiles) error {
	dir, base := path.Split(name)
	r, err := parseFolder(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	f := File{Path: name, Bytes: t.Length, SHA256: hex.EncodeToString(t.Hashes["sha256"])}
	if err := (Part{Name: base, Bytes: f.Bytes, SHA256: f.SHA256}).validate(); err != nil {
		return err
	}
	if found[dir] == nil {
		found[dir] = &r
	}
	if base != ManifestName {
		return found[dir].add(f, t.Custom)
	}
	e, err := ParseEntry(t.Custom)
	found[dir].Manifest, found[dir].Published, found[dir].Channels, found[dir].Withdrawn = f, e.Published, e.Channels, e.Withdrawn
	return err
}

// add adds a file that is not the manifest.
func (r *Release) add(f File, custom *json.RawMessage) error {
	d, err := parseDelta(custom, f)
	switch {
	case err != nil:
		return err
	case d != nil:
		r.Deltas = append(r.Deltas, *d)
	default:
		r.Files = append(r.Files, f)
	}
	return nil
}

// parseFolder is the inverse of Folder.
func parseFolder(dir string) (r Release, err error) {
	parts := strings.Split(dir, "/")
	if len(parts) != 3 {
		return r, fmt.Errorf("want releases/VERSION/EDITION-ARCH/NAME")
	}
	if r.Version, err = ParseVersion(parts[1]); err != nil {
		return r, err
	}
	dash := max(0, strings.LastIndexByte(parts[2], '-')) // an edition may have dashes, an architecture not
	r.Edition, r.Arch = parts[2][:dash], strings.TrimPrefix(parts[2][dash:], "-")
	if !editionName.MatchString(r.Edition) || !archName.MatchString(r.Arch) {
		return r, fmt.Errorf("%.80q is not EDITION-ARCH", parts[2])
	}
	return r, nil
}
