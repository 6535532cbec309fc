// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package publish

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"wherry.example/wherry/internal/atomicfile"
	"wherry.example/wherry/release"
)

// Bounds of what the world can make the server keep.
const (
	maxReports     = 10_000
	maxReportsFile = 16 << 20
	maxSenders     = 4096
	perMinute      = 60 // reports from one address
)

// Reports are the newest reports of machines, one each, kept in one file.
// When there are too many, the oldest is forgotten. Anybody can invent reports: they are for people
// to look at, and nothing is decided by them.
type Reports struct {
	// Proxies are believed about where reports come from; set before reports are served.
	Proxies Proxies

	file string
	now  func() time.Time

	mu      sync.Mutex
	byID    map[string]Received
	changed bool
	minute  time.Time
	senders map[netip.Addr]int // since minute
}

// Received is a report and when it came.
type Received struct {
	At     time.Time      `json:"at"`
	Report release.Report `json:"report"`
}

// OpenReports reads the file; a damaged one is begun anew, which loses nothing
// that machines do not tell again.
func OpenReports(file string, now func() time.Time) (*Reports, error) {
	r := &Reports{file: file, now: now, byID: map[string]Received{}, senders: map[netip.Addr]int{}}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []Received
	if json.NewDecoder(io.LimitReader(f, maxReportsFile)).Decode(&list) == nil {
		for _, one := range list[:min(len(list), maxReports)] {
			r.byID[one.Report.ID] = one
		}
	}
	return r, nil
}

// allowed counts an address's reports. All of an IPv6 network are one.
func (r *Reports) allowed(addr netip.Addr) bool {
	if !addr.IsValid() {
		return false
	}
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			addr = p.Addr()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.now(); now.Sub(r.minute) >= time.Minute {
		r.minute = now
		clear(r.senders)
	}
	if _, known := r.senders[addr]; !known && len(r.senders) >= maxSenders {
		return false
	}
	r.senders[addr]++
	return r.senders[addr] <= perMinute
}

func (r *Reports) add(report release.Report) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.byID[report.ID]; !known && len(r.byID) >= maxReports {
		oldest := slices.MinFunc(slices.Collect(maps.Values(r.byID)), func(a, b Received) int { return a.At.Compare(b.At) })
		delete(r.byID, oldest.Report.ID)
	}
	r.byID[report.ID] = Received{r.now().UTC(), report}
	r.changed = true
}

// List returns the reports, newest first.
func (r *Reports) List() []Received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.byID), func(a, b Received) int {
		return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.Report.ID, b.Report.ID))
	})
}

// Save writes the file if there is anything new.
func (r *Reports) Save() error {
	r.mu.Lock()
	changed := r.changed
	r.changed = false
	r.mu.Unlock()
	if !changed {
		return nil
	}
	data, err := json.Marshal(r.List())
	if err != nil {
		return err
	}
	if err := atomicfile.Write(r.file, data, 0o600); err != nil {
		return fmt.Errorf("keep reports: %w", err)
	}
	return nil
}

// ServeHTTP takes one report.
func (r *Reports) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if !r.allowed(r.Proxies.sender(req)) {
		w.Header().Set("Retry-After", "60")
		http.Error(w, "too many reports", http.StatusTooManyRequests)
		return
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, req.Body, release.MaxReportBytes))
	if err != nil {
		http.Error(w, "the report is too large", http.StatusRequestEntityTooLarge)
		return
	}
	report, err := release.ParseReport(data)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.add(report)
	w.WriteHeader(http.StatusNoContent)
}
