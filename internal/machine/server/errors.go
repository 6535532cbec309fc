// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"connectrpc.com/connect"
	"github.com/containerd/errdefs"
)

// ExitCodeHeader is set on the error of a call that could not start a process:
// docker's 125, 126 or 127.
const ExitCodeHeader = "Wherry-Exit-Code"

// maxErrorBytes bounds a message: image registries and runtimes can be long-winded.
const maxErrorBytes = 4 << 10

// kinds is how an error of the parts becomes a code of Connect's.
var kinds = []struct {
	is   func(error) bool
	code connect.Code
}{
	{errdefs.IsNotFound, connect.CodeNotFound},
	{errdefs.IsAlreadyExists, connect.CodeAlreadyExists},
	{errdefs.IsInvalidArgument, connect.CodeInvalidArgument},
	{errdefs.IsFailedPrecondition, connect.CodeFailedPrecondition},
	{errdefs.IsConflict, connect.CodeFailedPrecondition},
	{errdefs.IsNotModified, connect.CodeFailedPrecondition},
	{errdefs.IsResourceExhausted, connect.CodeResourceExhausted},
	{func(err error) bool { return errors.Is(err, syscall.ENOSPC) }, connect.CodeResourceExhausted},
	{errdefs.IsPermissionDenied, connect.CodePermissionDenied},
	{errdefs.IsUnauthorized, connect.CodePermissionDenied}, // of a registry: Unauthenticated is about this API
	{errdefs.IsUnavailable, connect.CodeUnavailable},
	{errdefs.IsNotImplemented, connect.CodeUnimplemented},
	{errdefs.IsOutOfRange, connect.CodeOutOfRange},
	{errdefs.IsDataLoss, connect.CodeDataLoss},
	{errdefs.IsAborted, connect.CodeAborted},
	{func(err error) bool { return errors.Is(err, context.Canceled) }, connect.CodeCanceled},
	{func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }, connect.CodeDeadlineExceeded},
}

// connectError gives an error the code that its kind has, and the exit code
// that a command line should end with.
func (s *Server) connectError(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); errors.Is(cause, errRoleLost) {
		return errRoleLost
	}
	var out *connect.Error
	if errors.As(err, &out) {
		return out
	}
	var kind connect.Code
	var exit int
	if s.opts.Classify != nil {
		kind, exit = s.opts.Classify(err)
	}
	if kind == 0 {
		kind = code(err)
	}
	out = connect.NewError(kind, errors.New(clip(err.Error())))
	if exit != 0 {
		out.Meta().Set(ExitCodeHeader, strconv.Itoa(exit))
	}
	return out
}

func code(err error) connect.Code {
	for _, k := range kinds {
		if k.is(err) {
			return k.code
		}
	}
	return connect.CodeUnknown
}

// clip makes a message fit for a terminal: parts of it come from callers,
// registries and images.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) <= maxErrorBytes {
		return s
	}
	cut := maxErrorBytes
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

// errorLog takes what net/http has to say: of what callers do wrong, which is
// no news, and of panics that it caught, of which nobody else tells.
type errorLog struct{ log *slog.Logger }

func (e errorLog) Write(text []byte) (int, error) {
	level := slog.LevelDebug
	if bytes.Contains(text, []byte("panic")) {
		level = slog.LevelError
	}
	e.log.Log(context.Background(), level, "API server", "message", string(bytes.TrimSpace(text)))
	return len(text), nil
}
