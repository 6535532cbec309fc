// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"regexp"
)

// namePattern is docker's.
var namePattern = pattern{regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`), 128}

// pattern is an expression with a bound beside it: counted repetitions in the
// expression are unrolled, and cost memory for as long as the machine runs.
type pattern struct {
	expression *regexp.Regexp
	max        int // bytes
}

// MatchString says whether all of s fits.
func (p pattern) MatchString(s string) bool { return len(s) <= p.max && p.expression.MatchString(s) }

func newID() string {
	var b [32]byte
	rand.Read(b[:]) // never fails, by its documentation
	return hex.EncodeToString(b[:])
}

var (
	adjectives = []string{"amber", "brisk", "calm", "daring", "early", "fleet", "gentle", "hardy", "idle", "jaunty", "keen", "lively",
		"mellow", "nimble", "open", "patient", "quiet", "ready", "steady", "tidy", "upright", "vivid", "windward", "young", "zesty"}
	boats = []string{"barge", "canoe", "coble", "cutter", "dinghy", "dory", "ferry", "gondola", "hoy", "jolly", "kayak", "ketch", "lighter",
		"lugger", "packet", "pinnace", "punt", "scow", "shallop", "skiff", "sloop", "tender", "trow", "yawl", "yole"}
)

// reserveName takes the wanted name, or a made-up one that is free.
func (t *table) reserveName(want string, system bool, id string) (string, error) {
	if want != "" {
		if !namePattern.MatchString(want) {
			return "", errorf(KindInvalid, "container name %.140q: only letters, digits, _ . and -, 2 to 128 of them, beginning with a letter or digit", want)
		}
		return want, t.reserve(nameKey{system, want}, id)
	}
	for try := range 20 {
		name := adjectives[mathrand.IntN(len(adjectives))] + "_" + boats[mathrand.IntN(len(boats))]
		if try >= 3 { // most are taken: make them longer
			name = fmt.Sprintf("%s%d", name, mathrand.IntN(100000))
		}
		if t.reserve(nameKey{system, name}, id) == nil {
			return name, nil
		}
	}
	return "", errorf(KindResourceExhausted, "no free container name was found; give one")
}
