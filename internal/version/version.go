// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package version holds the version that a Wherry binary was built as. The
// image build and the Makefile set it with the linker's -X from the file
// VERSION; a binary built by a plain `go build` says "development".
//
// A version is DAYS.MINOR.PATCH: days since 2026-11-20, then as in semantic
// versioning.
package version

// Version is set by the linker.
var Version = "development"
