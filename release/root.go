// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// RootFile is where a machine's root image holds the root role that it trusts.
const RootFile = "/etc/wherry/root.json"

// Root is what a root role says of itself.
type Root struct {
	Version   int64
	Expires   time.Time
	Keys      []string // ids of the keys that may sign the next root
	Threshold int      // so many of them must
}

// String tells people whose releases are trusted.
func (r Root) String() string {
	var short []string
	for _, k := range r.Keys {
		short = append(short, k[:min(len(k), 8)])
	}
	return fmt.Sprintf("version %d, %d of the keys %s", r.Version, r.Threshold, strings.Join(short, " "))
}

// ParseRoot reads a root role that is signed by its own keys. Whether it has
// expired does not matter: it is where a chain begins, and the chain's end must be fresh.
func ParseRoot(data []byte) (Root, error) {
	trusted, err := trustRoot(data, DefaultLimits())
	if err != nil {
		return Root{}, err
	}
	r := trusted.Root.Signed
	role := r.Roles[metadata.ROOT]
	return Root{r.Version, r.Expires, slices.Sorted(slices.Values(role.KeyIDs)), role.Threshold}, nil
}

// trustRoot begins with a root role.
func trustRoot(data []byte, l Limits) (*trustedmetadata.TrustedMetadata, error) {
	if int64(len(data)) > l.RootBytes {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, len(data), l.RootBytes)
	}
	if _, err := checkRoot(data); err != nil {
		return nil, err
	}
	trusted, err := trustedmetadata.New(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return trusted, nil
}
