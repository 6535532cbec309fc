// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"

	"wherry.example/wherry/api/wherryv1"
)

const childEnv = "WHERRY_ENGINE_CHILD"

func childMain(string) {}

func TestRunToTheEnd(t *testing.T) {
	w := newWorld(t)
	out, code := w.outcome(&wherryv1.ContainerSpec{Command: []string{"both", "3"}})
	if code != 3 || out != "to out\nto err\n" && out != "to err\nto out\n" {
		t.Errorf("exit code %d, output %q", code, out)
	}
}
