// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"slices"
	"time"
)

// Channel is how settled the releases are that a machine takes.
type Channel string

// The channels. A release goes from each to the next and stays in those where
// it was, so that a machine on beta also gets what became stable.
const (
	Alpha  Channel = "alpha"
	Beta   Channel = "beta"
	Stable Channel = "stable"
)

// Channels in the order of promotion.
func Channels() []Channel { return []Channel{Alpha, Beta, Stable} }

// ParseChannel reads a channel's name.
func ParseChannel(s string) (Channel, error) {
	if c := Channel(s); slices.Contains(Channels(), c) {
		return c, nil
	}
	return "", fmt.Errorf("channel %.40q: want alpha, beta or stable", s)
}

// Before returns the channel from which releases are promoted to c.
func (c Channel) Before() (Channel, bool) {
	i := slices.Index(Channels(), c)
	if i <= 0 {
		return "", false
	}
	return Channels()[i-1], true
}

// Rollout is how far a release has come in a channel. Each machine decides by
// itself, from its own id: no server knows which machines there are.
type Rollout struct {
	Percent int       `json:"percent"`
	Start   time.Time `json:"start"` // nobody before, within ClockTolerance
}

// ClockTolerance is how far a machine's clock may be behind the publisher's: who
// publishes a release and asks for it at once gets it, and not the one before.
const ClockTolerance = 2 * time.Minute

// Validate bounds the percentage.
func (r Rollout) Validate() error {
	if r.Percent < 0 || r.Percent > 100 {
		return fmt.Errorf("rollout of %d percent: want 0 to 100", r.Percent)
	}
	return nil
}

// Includes tells whether a machine takes part now. Raising the percentage
// keeps everybody in who was in.
func (r Rollout) Includes(machineID string, v Version, now time.Time) bool {
	return !now.Add(ClockTolerance).Before(r.Start) && Place(machineID, v) < r.Percent
}

// Place is a machine's place in the rollouts of a version, from 0 to 99. It
// differs from version to version, so that it is not always the same machines that go first.
func Place(machineID string, v Version) int {
	h := sha256.New()
	io.WriteString(h, "wherry rollout\x00"+v.String()+"\x00"+machineID)
	hi, _ := bits.Mul64(binary.BigEndian.Uint64(h.Sum(nil)), 100)
	return int(hi)
}
