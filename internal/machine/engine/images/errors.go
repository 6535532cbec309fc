// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package images

import "errors"

// What callers can tell apart about an error.
var (
	ErrNotFound = errors.New("no such image")
	ErrInvalid  = errors.New("cannot work")
	// ErrInUse: containers, or other names, stand in the way.
	ErrInUse = errors.New("image is in use")
	// ErrDiskFull wraps every error whose cause is the state disk's size.
	ErrDiskFull = errors.New("the state disk is full")
	// ErrBadImage is content that is refused: asking again brings the same.
	ErrBadImage = errors.New("image refused")
	// ErrRegistry is a registry that does not answer or does not answer well.
	ErrRegistry = errors.New("registry")
	// ErrDenied is a registry that wants other credentials, or none of ours.
	ErrDenied = errors.New("access denied")
)
