// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package trial answers one question about a machine that has just booted a new
// release: is the work well?
//
// Baseline is taken before the reboot, by the release that still runs: the links
// with their kinds of addresses and their default routes, whether state is
// persistent, the machine's key, and the containers of both namespaces that run
// and will come back with the machine. Its bytes are kept by the caller and
// handed to Wait by the release after it, so they are read leniently: what a
// field means never changes, and fields that are not known are passed over.
//
// Wait looks again and again, with pauses that grow, until everything holds at
// the same time and has held for a while (10 s; twice as long for each time that a
// container was started anew, at most 80 s): the network as it was; the API of this
// machine, dialled on its own port and known by its key; state mounted, and
// persistent if it was; each container of the baseline running, healthy if it was
// healthy, and not started anew meanwhile; the checks of the configuration. When
// the limit comes first, Wait returns a Failure that names each check that did
// not hold, with its last output.
//
// What people do meanwhile is not held against the release: a container that was
// seen after the boot and is then removed or stopped by hand is no longer
// expected. Nor is a container that ran and has no policy to run again.
//
// It owns nothing and changes nothing; only a file of a few bytes is written to
// state and removed, to see that state can be written. What it reads comes
// through Options. Everything from outside (answers, output, the baseline) is
// bounded.
package trial

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/config"
)

// Options are what a trial asks of the rest of the machine.
type Options struct {
	Log *slog.Logger
	// Links of the machine's own network.
	Links func() []*wherryv1.Link
	// Containers of both namespaces, whatever their phase.
	Containers func(context.Context) ([]Container, error)
	// State is what is mounted at StateDir.
	State    func() *wherryv1.StateInfo
	StateDir string
	// API is the address of this machine's own API, Fingerprint that of its key.
	API         string
	Fingerprint func() string
	// Exec runs a command in a container, passes on what it prints, and returns its exit code.
	Exec func(ctx context.Context, container string, command []string, output func([]byte)) (code int, err error)
	// Checks are those of the configuration, as it is when they are asked for.
	Checks func() []config.TrialCheck
	// Stable is how long all must hold; 0: 10 s.
	Stable time.Duration
}

// Container is a container as far as a trial is concerned.
type Container struct {
	ID, Name string
	System   bool
	// Returns says that the engine starts it again by itself; OnFailure, that it does so until it ends well.
	Returns, OnFailure bool
	State              *wherryv1.ContainerState
}

// Report is how far a trial is.
type Report struct {
	Elapsed, Limit time.Duration
	// Held is how long everything has held.
	Held time.Duration
	// Needed is how long it must.
	Needed time.Duration
	// Working is how long all containers of before have run; where none ran, it is Held.
	Working time.Duration
	Results []Result
}

// Result is one check at the last look. Message says what is amiss, or what a
// check of the configuration printed when it went well.
type Result struct {
	Name    string
	Well    bool
	Message string
}

// Failure says what was not well when the limit came.
type Failure struct {
	Limit   time.Duration
	Results []Result // those alone that did not hold
}

func (f *Failure) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "not well after %s", f.Limit.Round(time.Second))
	for i, r := range f.Results {
		if i == maxShown {
			fmt.Fprintf(&b, "; and %d more", len(f.Results)-i)
			break
		}
		fmt.Fprintf(&b, "; %s: %s", r.Name, r.Message)
	}
	return b.String()
}

const (
	defaultStable = 10 * time.Second
	firstPause    = 250 * time.Millisecond
	lastPause     = 3 * time.Second
	// longestPause is after looks that take long themselves: they must not be what keeps a slow machine from its work.
	longestPause = 10 * time.Second
	// probeLimit bounds one look at one thing: a command in a container of a machine that has just begun its work is slow.
	probeLimit = 30 * time.Second
	// maxShown bounds how many checks an error tells of, maxMessage each of them.
	maxShown   = 16
	maxMessage = 600
)

// Trial judges one machine.
type Trial struct{ o Options }

// New checks that everything is there.
func New(o Options) (*Trial, error) {
	if o.Log == nil || o.Links == nil || o.Containers == nil || o.State == nil || o.Fingerprint == nil || o.Exec == nil || o.Checks == nil {
		return nil, errors.New("trial: a part is missing in its options")
	}
	if o.Stable == 0 {
		o.Stable = defaultStable
	}
	return &Trial{o}, nil
}

// Baseline is what a later Wait compares with.
func (t *Trial) Baseline(ctx context.Context) (json.RawMessage, error) {
	containers, err := t.o.Containers(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the containers that run: %w", err)
	}
	return json.Marshal(baselineOf(t.o.Links(), t.o.State(), t.o.Fingerprint(), containers))
}

// Wait returns nil once all has been well for a while, a *Failure when it was
// not until the limit, and ctx's error when that ends. An empty baseline
// compares with nothing: API, state and the configuration's checks remain.
func (t *Trial) Wait(ctx context.Context, saved json.RawMessage, limit time.Duration, progress func(Report)) error {
	before, err := readBaseline(saved)
	if err != nil {
		return err
	}
	began := time.Now()
	h := history{work: work{booted: booted(began)}}
	pause := firstPause
	for {
		looked := time.Now()
		results := t.look(ctx, before, &h)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		now := time.Now()
		held := h.note(now, results)
		r := Report{Elapsed: now.Sub(began), Limit: limit, Held: held, Needed: h.needed(t.o.Stable), Working: held, Results: results}
		if since := h.work.since; !since.IsZero() {
			r.Working = now.Sub(since)
		}
		progress(r)
		switch {
		case held >= r.Needed:
			return nil
		case r.Elapsed >= limit:
			failures := h.failures(results, t.o.Stable)
			r.Results = judged(results, failures)
			progress(r)
			return &Failure{Limit: limit, Results: failures}
		}
		select {
		case <-time.After(min(rest(pause, time.Since(looked)), max(0, limit-r.Elapsed))):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause = min(2*pause, lastPause)
	}
}

// Return is Wait for a machine that went back to a release. The checks of the configuration are left out:
// whether they held before the update nobody knows, and what they want of a new release says nothing of the old one.
func (t *Trial) Return(ctx context.Context, saved json.RawMessage, limit time.Duration, progress func(Report)) error {
	back := *t
	back.o.Checks = func() []config.TrialCheck { return nil }
	return back.Wait(ctx, saved, limit, progress)
}

// rest is the time to the next look: at least twice that of the last one, within bounds.
func rest(pause, took time.Duration) time.Duration {
	return max(pause, min(2*took, longestPause))
}

// look does all checks once: what is known at once, then side by side what has to be asked.
func (t *Trial) look(ctx context.Context, before baseline, h *history) []Result {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	containers, err := t.o.Containers(ctx)
	results := judgeNetwork(before, t.o.Links())
	if err != nil {
		results = append(results, Result{Name: "containers", Message: bounded(err.Error())})
	} else {
		now := time.Now()
		results = append(results, h.judgeContainers(before, containers, now)...)
		starts, all := h.starts(before, containers)
		h.work.note(starts, all, now)
	}
	return append(results, t.probe(ctx, before)...)
}

// probe does the checks that take time.
func (t *Trial) probe(ctx context.Context, before baseline) []Result {
	type probe struct {
		name string
		do   func(context.Context) (string, error)
	}
	probes := []probe{
		{"API", func(ctx context.Context) (string, error) { return "", probeAPI(ctx, t.o.API, t.o.Fingerprint()) }},
		{"key", func(context.Context) (string, error) { return "", compareKeys(before, t.o.Fingerprint()) }},
		{"state", func(context.Context) (string, error) { return "", probeState(before, t.o.State(), t.o.StateDir) }},
	}
	for _, c := range t.o.Checks() {
		probes = append(probes, probe{"check " + c.Name, func(ctx context.Context) (string, error) { return t.check(ctx, c) }})
	}
	results := make([]Result, len(probes))
	var all sync.WaitGroup
	for i, p := range probes {
		all.Go(func() {
			text, err := p.do(ctx)
			results[i] = Result{Name: p.name, Well: true, Message: bounded(text)}
			if err != nil {
				results[i] = Result{Name: p.name, Message: bounded(err.Error())}
			}
		})
	}
	all.Wait()
	return results
}
