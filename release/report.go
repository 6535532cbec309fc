// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package release

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
)

// Bounds of a report.
const (
	MaxReportBytes = 2 << 10
	maxReason      = 500
)

// State is how an update fares on a machine.
type State string

// The states that machines report.
const (
	StateIdle       State = "idle"        // runs Version, nothing to do
	StateStaged     State = "staged"      // has Target ready
	StateTrying     State = "trying"      // runs Target, not yet sure of it
	StateCommitted  State = "committed"   // stays with Version
	StateRolledBack State = "rolled-back" // left Target again: for Reason, or by hand
)

// Report is what a machine tells about itself when its owner wants it to.
type Report struct {
	ID      string   `json:"id"` // ReportID, not the machine's id
	Version Version  `json:"version"`
	Edition string   `json:"edition"`
	Arch    string   `json:"arch"`
	Channel Channel  `json:"channel"`
	State   State    `json:"state"`
	Target  *Version `json:"target,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	// ByHand: somebody went back from Target, and nothing says that it did not work.
	ByHand bool `json:"by_hand,omitempty"`
}

// ReportID is an id that says nothing about the machine, and is not the one by
// which it takes its place in rollouts.
func ReportID(machineID string) string {
	sum := sha256.Sum256([]byte("wherry report\x00" + machineID))
	return hex.EncodeToString(sum[:16])
}

// ParseReport reads a report that anybody may have sent.
func ParseReport(data []byte) (Report, error) {
	var r Report
	if len(data) > MaxReportBytes {
		return r, fmt.Errorf("report of %d bytes: the limit is %d", len(data), MaxReportBytes)
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return Report{}, fmt.Errorf("read report: %w", err)
	}
	if err := r.validate(); err != nil {
		return Report{}, fmt.Errorf("report: %w", err)
	}
	r.Reason = strings.Map(printable, r.Reason)
	return r, nil
}

func (r Report) validate() error {
	if b, err := hex.DecodeString(r.ID); err != nil || len(b) != 16 || strings.ToLower(r.ID) != r.ID {
		return fmt.Errorf("id: want 32 hex digits")
	}
	if !editionName.MatchString(r.Edition) || !archName.MatchString(r.Arch) {
		return fmt.Errorf("edition and architecture: want small letters and digits")
	}
	if _, err := ParseChannel(string(r.Channel)); err != nil {
		return err
	}
	switch r.State {
	case StateIdle, StateStaged, StateTrying, StateCommitted, StateRolledBack:
	default:
		return fmt.Errorf("state %.20q is not known", r.State)
	}
	if len(r.Reason) > maxReason {
		return fmt.Errorf("reason: more than %d bytes", maxReason)
	}
	return nil
}

func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return ' '
}
