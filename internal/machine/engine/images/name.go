// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// maxImageName bounds what is parsed at all.
const maxImageName = 1024

// parseImageName reads a name as people write it: "nginx" is docker.io/library/nginx:latest.
// A name with both tag and digest keeps the digest alone, for the tag says nothing then.
func parseImageName(s string) (reference.Named, error) {
	if s == "" {
		return nil, fmt.Errorf("%w: the image name is empty", ErrInvalid)
	}
	if len(s) > maxImageName {
		return nil, fmt.Errorf("%w: an image name of %d bytes", ErrInvalid, len(s))
	}
	n, err := reference.ParseDockerRef(s)
	if err != nil {
		return nil, fmt.Errorf("%w: %.200q is no image name: %v", ErrInvalid, s, err)
	}
	return n, nil
}

// familiarName is the shortest way to write a full name.
func familiarName(full string) string {
	n, err := reference.ParseNormalizedNamed(full)
	if err != nil {
		return full
	}
	return reference.FamiliarString(n)
}

var imageID = regexp.MustCompile(`^(sha256:)?[0-9a-f]{4,64}$`)

// asImageID returns the hexadecimal digits when the string can be an image's id or the start of one.
func asImageID(s string) (hex string, ok bool) {
	if !imageID.MatchString(s) {
		return "", false
	}
	return strings.TrimPrefix(s, "sha256:"), true
}

// namelessRecord is the key of an image that no name points at any more. No
// parsed name can be equal to it.
func namelessRecord(target digest.Digest) string { return target.String() }

func isNameless(record string) bool {
	return strings.HasPrefix(record, "sha256:") || strings.HasPrefix(record, "sha512:")
}
