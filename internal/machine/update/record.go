// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package update

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"wherry.example/wherry/internal/atomicfile"
	"wherry.example/wherry/release"
)

// Bounds of the record, so that it fits into the space that is set aside for a full disk.
const (
	maxHistory  = 30
	maxAvoided  = 20
	maxReason   = 2 << 10
	maxChecks   = 40      // of an attempt
	maxChecked  = 4 << 10 // bytes that the checks of an attempt printed
	maxBaseline = 128 << 10
	maxRecord   = 512 << 10
)

// Record is all that the machine remembers of its updates.
type Record struct {
	State   release.State     `json:"state"`
	Attempt *Attempt          `json:"attempt,omitempty"` // the one that is going on
	Avoid   []release.Avoided `json:"avoid,omitempty"`
	Paused  *Pause            `json:"paused,omitempty"`
	History []Entry           `json:"history,omitempty"` // newest first
	// Floor is a time that has passed for certain, whatever the clock says.
	Floor time.Time `json:"floor,omitzero"`
	// Reported is what the status page heard last.
	Reported *release.Report `json:"reported,omitempty"`
}

// How is by what an attempt was begun.
type How string

// The ways.
const (
	Automatic How = "automatic" // by policy
	ByHand    How = "by hand"   // somebody asked
	Bundle    How = "bundle"    // somebody sent a file
	Stick     How = "usb stick" // found at boot
	Rollback  How = "rollback"  // somebody wanted the other release back
	Unknown   How = "unknown"   // its record was lost
	Looking   How = "check"     // no attempt: somebody only asks what there is
)

// Attempt is one release on its way to be the one that runs.
type Attempt struct {
	From      release.Version `json:"from"`
	To        release.Version `json:"to"`
	How       How             `json:"how"`
	By        string          `json:"by,omitempty"` // who asked
	Begun     time.Time       `json:"begun"`
	File      release.File    `json:"file"`               // the OS file of To
	Published time.Time       `json:"published,omitzero"` // To
	Fetched   int64           `json:"fetched"`            // bytes
	Delta     bool            `json:"delta,omitempty"`
	Note      string          `json:"note,omitempty"` // why the delta was not taken
	Baseline  json.RawMessage `json:"baseline,omitempty"`
	Boot      string          `json:"boot"`              // id of the boot in which it was staged, later of the last one that saw it
	Passed    int             `json:"passed,omitempty"`  // boots that did not start it
	Down      time.Time       `json:"down,omitzero"`     // when the machine stopped working for it
	Worked    time.Duration   `json:"worked,omitempty"`  // for how long the work ran in To since then
	Starts    int             `json:"starts,omitempty"`  // boots of To in which wherryd came up
	Failed    string          `json:"failed,omitempty"`  // why To is being left
	GivenUp   bool            `json:"by_hand,omitempty"` // by somebody, and nothing says that To did not work
	Leaving   int             `json:"leaving,omitempty"` // how often that was tried
	Checks    []Check         `json:"checks,omitempty"`  // how the trial ended
}

// Pause keeps the machine from beginning by itself.
type Pause struct {
	Until time.Time `json:"until,omitzero"` // zero: until somebody resumes
}

// Entry is an attempt that has ended.
type Entry struct {
	From     release.Version `json:"from"`
	To       release.Version `json:"to"`
	How      How             `json:"how"`
	By       string          `json:"by,omitempty"`
	Begun    time.Time       `json:"begun"`
	Ended    time.Time       `json:"ended"`
	Result   Result          `json:"result"`
	Reason   string          `json:"reason,omitempty"`
	GivenUp  bool            `json:"by_hand,omitempty"` // as in Attempt
	Fetched  int64           `json:"fetched"`
	Bytes    int64           `json:"bytes"` // of the whole file
	Delta    bool            `json:"delta,omitempty"`
	Note     string          `json:"note,omitempty"`
	Downtime time.Duration   `json:"downtime,omitempty"` // zero: not known
	Checks   []Check         `json:"checks,omitempty"`   // of the trial; none: it did not come to one
}

// byHand says that somebody went back, and which release that left.
func (e Entry) byHand() (left release.Version, is bool) {
	if e.How == Rollback {
		return e.From, true
	}
	return e.To, e.GivenUp
}

// Result is how an attempt ended.
type Result string

// The results.
const (
	Committed  Result = "committed"
	RolledBack Result = "rolled back"
	Lost       Result = "lost"   // the file went from the boot partition before it was started
	Stayed     Result = "stayed" // it failed, and there was nothing to go back to
)

// under tells whether an attempt is going on.
func (r Record) under() bool { return r.Attempt != nil }

// end moves the attempt to the history.
func (r *Record) end(state release.State, result Result, reason string, now time.Time) {
	a := r.Attempt
	e := Entry{From: a.From, To: a.To, How: a.How, By: a.By, Begun: a.Begun, Ended: now, Result: result, Reason: bounded(reason, maxReason), GivenUp: a.GivenUp, Fetched: a.Fetched, Bytes: a.File.Bytes, Delta: a.Delta, Note: a.Note, Checks: a.Checks}
	if a.How == Rollback { // it was the running one that was left
		e.From, e.To = a.To, a.From
	}
	r.History = append([]Entry{e}, r.History[:min(len(r.History), maxHistory-1)]...)
	r.State, r.Attempt = state, nil
}

// avoid remembers the attempt's release, which is left for a reason.
func (r *Record) avoid(reason string, now time.Time) {
	left := release.Avoided{Version: r.Attempt.To, Reason: bounded(reason, maxReason), At: now, ByHand: r.Attempt.GivenUp}
	r.Avoid = slices.DeleteFunc(slices.Clone(r.Avoid), func(a release.Avoided) bool { return a.Version == left.Version })
	r.Avoid = append(r.Avoid, left)
	r.Avoid = r.Avoid[max(0, len(r.Avoid)-maxAvoided):]
}

// forgive forgets what is no newer than the release that works.
func (r *Record) forgive(v release.Version) {
	r.Avoid = slices.DeleteFunc(slices.Clone(r.Avoid), func(a release.Avoided) bool { return a.Version.Compare(v) <= 0 })
}

// avoided returns why a release is left alone.
func (r Record) avoided(v release.Version) (release.Avoided, bool) {
	i := slices.IndexFunc(r.Avoid, func(a release.Avoided) bool { return a.Version == v })
	if i < 0 {
		return release.Avoided{}, false
	}
	return r.Avoid[i], true
}

// lostBefore says whether the newest attempt was at the same release, and its file
// was lost: a machine that takes updates by itself would restart for ever.
func (r Record) lostBefore(to release.Version) bool {
	last := r.last()
	return last.To == to && last.Result == Lost
}

// last is the newest entry.
func (r Record) last() Entry {
	if len(r.History) == 0 {
		return Entry{}
	}
	return r.History[0]
}

// kept are checks as the record keeps them: those that failed first, since the
// number of checks and what all of them say is bounded.
func kept(checks []Check) []Check {
	out := slices.Clone(checks)
	slices.SortStableFunc(out, func(a, b Check) int {
		switch {
		case a.Well == b.Well:
			return 0
		case b.Well:
			return -1
		}
		return 1
	})
	out = out[:min(len(out), maxChecks)]
	const name, least = 100, 40
	left := maxChecked
	for i := range out {
		c := &out[i]
		c.Name = bounded(c.Name, name)
		c.Message = bounded(c.Message, max(left, least))
		left -= len(c.Message)
	}
	return out
}

func bounded(s string, max int) string {
	if len(s) <= max {
		return s
	}
	const mark = " …"
	cut := max - len(mark)
	for cut > 0 && s[cut]&0xc0 == 0x80 { // not within a letter
		cut--
	}
	return s[:cut] + mark
}

// load reads the record. One that is not there, or damaged, is a new one.
func load(file string) (Record, error) {
	r := Record{State: release.StateIdle}
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, fmt.Errorf("read the record of updates: %w", err)
	}
	if info.Size() > maxRecord {
		return r, fmt.Errorf("the record of updates has %d bytes: it is not one", info.Size())
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return r, fmt.Errorf("read the record of updates: %w", err)
	}
	var got Record
	if err := json.Unmarshal(data, &got); err != nil {
		return r, fmt.Errorf("read the record of updates: %w", err)
	}
	if got.State == "" {
		got.State = release.StateIdle
	}
	return got, nil
}

// marshal leaves out what the oldest attempts' checks printed, where all would be too much.
func (r Record) marshal() ([]byte, error) {
	data, err := json.MarshalIndent(r, "", " ")
	for i := len(r.History) - 1; i >= 0 && err == nil && len(data) > maxRecord; i-- {
		r.History = slices.Clone(r.History)
		r.History[i].Checks = nil
		data, err = json.MarshalIndent(r, "", " ")
	}
	return data, err
}

// save is on the disk when it returns nil.
func (r Record) save(file string) error {
	data, err := r.marshal()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("write the record of updates: %w", err)
	}
	if err := atomicfile.Write(file, data, 0o600); err != nil {
		return fmt.Errorf("write the record of updates: %w", err)
	}
	return nil
}
