// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"encoding/json"
	"fmt"
	"slices"
)

// Delta is a file that makes a part of a release out of the same part of an older
// one. It is a target of its own, beside the parts, and no part: a machine
// that does not know it, or has another file than it is made for, takes the part whole.
type Delta struct {
	File
	Part       string  `json:"part"`       // what it makes
	From       Version `json:"from"`       // out of that version's
	FromSHA256 string  `json:"fromSHA256"` // which must be this file
}

// DeltaName is a delta's file name.
func DeltaName(part string, from Version) string { return fmt.Sprintf("%s.from-%s.delta", part, from) }

// origin is what a delta's custom field says.
type origin struct {
	Part   string  `json:"part"`
	From   Version `json:"from"`
	SHA256 string  `json:"sha256"`
}

// MarshalCustom writes the delta's custom field.
func (d Delta) MarshalCustom() (json.RawMessage, error) {
	return json.Marshal(custom{Delta: &origin{d.Part, d.From, d.FromSHA256}})
}

// parseDelta reads it; it returns nil for a target that is no delta.
func parseDelta(raw *json.RawMessage, f File) (*Delta, error) {
	if raw == nil {
		return nil, nil
	}
	var c custom
	if err := json.Unmarshal(*raw, &c); err != nil {
		return nil, err
	}
	if c.Delta == nil {
		return nil, nil
	}
	if !partName.MatchString(c.Delta.Part) || !isSHA256(c.Delta.SHA256) {
		return nil, fmt.Errorf("a delta of %.80q from %.80q", c.Delta.Part, c.Delta.SHA256)
	}
	return &Delta{f, c.Delta.Part, c.Delta.From, c.Delta.SHA256}, nil
}

// Delta returns the delta that makes a part out of an older version's, if there is
// one that is smaller than the part.
func (r Release) Delta(part string, from Version) (Delta, bool) {
	whole, ok := r.File(part)
	i := slices.IndexFunc(r.Deltas, func(d Delta) bool { return d.Part == part && d.From == from })
	if !ok || i < 0 || r.Deltas[i].Bytes >= whole.Bytes {
		return Delta{}, false
	}
	return r.Deltas[i], true
}
