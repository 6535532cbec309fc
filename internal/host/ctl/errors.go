// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"connectrpc.com/connect"
	"wherry.example/wherry/client"
)

// APIError is an error that the machine answered with, in its words.
type APIError struct {
	Code    connect.Code
	Message string
	Exit    int // the exit code of a process that could not be started, else 0
}

func (e *APIError) Error() string { return e.Message }

// apiError takes Connect's decoration off an error.
func apiError(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return err
	}
	exit, _ := strconv.Atoi(ce.Meta().Get(client.ExitCodeHeader)) // absent: 0
	if connect.IsWireError(err) {
		return &APIError{ce.Code(), ce.Message(), exit}
	}
	if ce.Code() == connect.CodeUnavailable || ce.Code() == connect.CodeUnknown || ce.Code() == connect.CodeInternal {
		return &APIError{ce.Code(), fmt.Sprintf("the connection to the machine broke: %s", ce.Message()), exit}
	}
	return &APIError{ce.Code(), ce.Message(), exit}
}

func codeOf(err error) connect.Code {
	var api *APIError
	if errors.As(err, &api) {
		return api.Code
	}
	return 0
}

// Reported is the error of a verb whose single failures were written already.
var errReported = &ExitError{Code: 1}
