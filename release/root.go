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
	return fmt.Sprintf("root %d, %d of the keys %s", r.Version, r.Threshold, strings.Join(short, " "))
}

// ParseRoot reads a root role that is signed by its own keys. Whether it has
// expired does not matter: it is where a chain begins, and the chain's end must be fresh.
func ParseRoot(data []byte) (Root, error) {
	trusted, err := trustRoot(data, DefaultLimits())
	if err != nil {
		return Root{}, err
	}
	return rootOf(trusted), nil
}

func rootOf(trusted *trustedmetadata.TrustedMetadata) Root {
	r := trusted.Root.Signed
	role := r.Roles[metadata.ROOT]
	return Root{r.Version, r.Expires, slices.Sorted(slices.Values(role.KeyIDs)), role.Threshold}
}

// Trusted returns the root role that a machine trusts: from that of its image on, as far as the links go
// that it has kept of the chain. Each is verified by the one before, as Refresh does it; one that is damaged, or of another
// project, ends the chain where it is, and the next Refresh asks for it again.
func Trusted(image []byte, store Store) (Root, error) {
	s := &session{Config: Config{Root: image, Store: store}.withDefaults()}
	var err error
	if s.trusted, err = trustRoot(image, *s.Limits); err != nil {
		return Root{}, err
	}
	for n := 0; n < s.Limits.Roots && s.storedRoot(s.nextName()); n++ {
	}
	return rootOf(s.trusted), nil
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
