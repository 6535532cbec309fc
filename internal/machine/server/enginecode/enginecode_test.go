// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package enginecode

import (
	"errors"
	"fmt"
	"testing"

	"connectrpc.com/connect"
	"wherry.example/wherry/internal/machine/engine"
)

func TestOf(t *testing.T) {
	cause := errors.New("cause")
	cases := []struct {
		err  error
		code connect.Code
		exit int
	}{
		{cause, 0, 0},
		{&engine.Error{Err: cause}, 0, 0},
		{fmt.Errorf("start web: %w", &engine.Error{Kind: engine.KindInvalid, ExitCode: 127, Err: cause}), connect.CodeInvalidArgument, 127},
		{&engine.Error{Kind: engine.KindInternal, ExitCode: 125, Err: cause}, connect.CodeInternal, 125},
	}
	for _, c := range cases {
		if code, exit := Of(c.err); code != c.code || exit != c.exit {
			t.Errorf("%v: %v %d, want %v %d", c.err, code, exit, c.code, c.exit)
		}
	}
	for kind := engine.KindInternal; kind <= engine.KindPermission; kind++ {
		if codes[kind] == 0 {
			t.Errorf("kind %d has no code", kind)
		}
	}
}
