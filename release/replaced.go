// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"fmt"
	"strings"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// maxPast is how many root roles are looked back at.
const maxPast = 16

// anew is what to do with a bundle that is too old.
const anew = "make it anew with `wherry release bundle`"

// whoseKeys is what can be said of metadata that the right keys did not sign: it may be of before the keys
// were changed. Nothing is believed for that; it is advice.
func (s *session) whoseKeys() string {
	version := s.signedBefore()
	switch {
	case version > 0 && s.Carried:
		return fmt.Sprintf("it is this project's, from before its keys were changed (signed as root role %d allowed, and %d holds now): %s", version, s.trusted.Root.Signed.Version, anew)
	case version > 0:
		return fmt.Sprintf("it is signed with keys that this project has replaced (root role %d named them, and %d holds now): an old copy, or somebody has those keys", version, s.trusted.Root.Signed.Version)
	case s.Carried:
		return "this is another project's, or somebody changed it, or it is from before the project's keys were changed: then " + anew
	}
	return "this is another project's repository, or somebody changed it, or it is a copy from before the project's keys were changed"
}

// signedBefore is the version of an older root role whose keys signed what was read last; 0: none that is known.
func (s *session) signedBefore() int64 {
	read, role := s.read.document()
	if read == nil {
		return 0
	}
	now := s.trusted.Root.Signed.Version
	for version := now - 1; version > 0 && version >= now-maxPast; version-- {
		if root := s.pastRoot(version); root != nil && root.VerifyDelegate(role, read) == nil {
			return version
		}
	}
	return 0
}

// pastRoot is an older root role: the one that the machine was built with, or one that it has followed.
func (s *session) pastRoot(version int64) *metadata.Metadata[metadata.RootType] {
	known := [][]byte{s.Root}
	if data, ok := s.load(rootName(version), s.Limits.RootBytes); ok {
		known = append(known, data)
	}
	for _, data := range known {
		if trusted, err := trustRoot(data, *s.Limits); err == nil && trusted.Root.Signed.Version == version {
			return trusted.Root
		}
	}
	return nil
}

// fetched is a metadata file as it came.
type fetched struct {
	name string
	data []byte
}

// document is the file as go-tuf has it, with its role; nil: none that a root role names keys for.
func (f fetched) document() (any, string) {
	if checkJSON(f.data) != nil {
		return nil, ""
	}
	switch role := strings.TrimLeft(strings.TrimSuffix(f.name, ".json"), "0123456789."); role {
	case metadata.TIMESTAMP:
		return parsed(metadata.Timestamp().FromBytes(f.data)), role
	case metadata.SNAPSHOT:
		return parsed(metadata.Snapshot().FromBytes(f.data)), role
	case metadata.TARGETS:
		return parsed(metadata.Targets().FromBytes(f.data)), role
	}
	return nil, ""
}

// parsed is nil, and no pointer that is, where there is an error.
func parsed[T metadata.Roles](m *metadata.Metadata[T], err error) any {
	if err != nil {
		return nil
	}
	return m
}
