// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
)

// Kind tells callers what they can do about an error; the server maps it to a
// code of its protocol.
type Kind int

const (
	KindInternal Kind = iota // nobody asked for this to happen
	KindNotFound
	KindConflict           // the name is taken, the object is in use
	KindInvalid            // the request can never work
	KindFailedPrecondition // not in the state that the request needs
	KindResourceExhausted  // disk, addresses, ports, or a bound of ours
	KindUnavailable        // try again later: a registry, a network, a shutdown
	KindPermission         // refused by the machine's configuration
)

// Error is an error with a kind. ExitCode is set when a container or a command in
// it could not be started: docker's 125, 126 and 127.
type Error struct {
	Kind     Kind
	ExitCode int
	Err      error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the first Error in err's chain.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindInternal
}

// ExitCodeOf returns the exit code that a failed start stands for, 0 for none.
func ExitCodeOf(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.ExitCode
	}
	return 0
}

// errorf makes an error of a kind.
func errorf(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Err: fmt.Errorf(format, args...)}
}

// withKind gives err a kind unless it has one already.
func withKind(k Kind, err error) error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return &Error{Kind: k, Err: err}
}
