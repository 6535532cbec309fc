// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package enginecode gives the engine's kinds of errors the codes of the API.
// It is a package of its own so that the server, and everybody who tests
// against it, need not link an engine. Errors that are not the engine's have
// no code here; the server knows what to do with them.
package enginecode

import (
	"errors"

	"connectrpc.com/connect"
	"wherry.example/wherry/internal/machine/engine"
)

var codes = map[engine.Kind]connect.Code{
	engine.KindInternal:           connect.CodeInternal,
	engine.KindNotFound:           connect.CodeNotFound,
	engine.KindConflict:           connect.CodeAlreadyExists,
	engine.KindInvalid:            connect.CodeInvalidArgument,
	engine.KindFailedPrecondition: connect.CodeFailedPrecondition,
	engine.KindResourceExhausted:  connect.CodeResourceExhausted,
	engine.KindUnavailable:        connect.CodeUnavailable,
	engine.KindPermission:         connect.CodePermissionDenied,
}

// Of is for server.Options.Classify.
func Of(err error) (connect.Code, int) {
	var e *engine.Error
	if !errors.As(err, &e) {
		return 0, 0
	}
	if e.Kind == engine.KindInternal && e.ExitCode == 0 {
		return 0, 0 // what it wraps may tell more
	}
	return codes[e.Kind], e.ExitCode
}
