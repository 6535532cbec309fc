// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package modindex

import (
	"strings"
	"testing"
)

func TestOrderOfACycleEnds(t *testing.T) {
	x := &Index{Modules: []Module{{Name: "a", Depends: []string{"b"}}, {Name: "b", Depends: []string{"a"}}}}
	mods, err := x.Order("a")
	if err != nil || len(mods) != 2 {
		t.Errorf("%d modules, %v", len(mods), err)
	}
}

func TestDecodeBoundsItsInput(t *testing.T) {
	line := "builtin\txxxxxxxxxxxxxxxxxxxxxxx\n"
	if _, err := Decode(strings.NewReader(strings.Repeat(line, maxIndex/len(line)+1))); err == nil {
		t.Errorf("more than %d bytes were taken", maxIndex)
	}
}
