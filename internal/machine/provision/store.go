// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package provision

import (
	"path/filepath"
	"sync"

	"wherry.example/wherry/config"
)

// Store holds the configuration that the machine follows. It is safe for
// concurrent use. The machines it hands out are shared: nobody changes them.
type Store struct {
	o Options

	// applying serialises Apply; mu is held for moments only.
	applying    sync.Mutex
	mu          sync.Mutex
	current     config.Machine
	source      string
	subscribers map[chan config.Machine]struct{}
}

// NewStore begins with what Load found.
func NewStore(o Options, l Loaded) *Store {
	return &Store{o: o, current: l.Machine, source: l.Source, subscribers: map[chan config.Machine]struct{}{}}
}

// Current returns the configuration and the name of its source.
func (s *Store) Current() (m config.Machine, source string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current, s.source
}

// Document returns the configuration as it may be shown: without secrets.
func (s *Store) Document() (doc []byte, source string, err error) {
	m, source := s.Current()
	doc, err = m.Redact().Marshal()
	return doc, source, err
}

// Subscribe returns a channel that has the current configuration at once and
// each newer one later, until cancel is called.
func (s *Store) Subscribe() (machines <-chan config.Machine, cancel func()) {
	c := make(chan config.Machine, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	c <- s.current
	s.subscribers[c] = struct{}{}
	return c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.subscribers, c)
	}
}

// Applied is what became of a document.
type Applied struct {
	Changes []config.Change
	// Report refuses the document when it has errors.
	Report config.Report
}

// Apply makes the machine follow a document, or only says what that would
// change when dry is set. An error means that the document is good and could
// not be stored; the machine then follows what it followed before.
func (s *Store) Apply(doc []byte, dry bool) (Applied, error) {
	s.applying.Lock()
	defer s.applying.Unlock()
	current, _ := s.Current()
	m, report := parse(doc, current)
	if !report.OK() {
		return Applied{Report: report}, nil
	}
	applied := Applied{Changes: config.Diff(current, m), Report: report}
	if dry {
		return applied, nil
	}
	if err := s.keep(m); err != nil {
		return applied, err
	}
	s.publish(m)
	s.o.Log.Info("configuration applied", "changes", len(applied.Changes))
	s.o.Board.Set(boardLine, true, "from "+SourceAPI)
	return applied, nil
}

// parse fills in the secrets that the document leaves as they are.
func parse(doc []byte, current config.Machine) (config.Machine, config.Report) {
	m, report := config.Parse(doc)
	if !report.OK() {
		return m, report
	}
	m, hidden := m.Reveal(current)
	report.Problems = append(report.Problems, hidden.Problems...)
	return m, report
}

// keep stores the document that decides at the next boot, then its copy. The
// copy is a convenience: without it the machine still follows the document.
func (s *Store) keep(m config.Machine) error {
	doc, err := m.Marshal()
	if err != nil {
		return err
	}
	if err := write(filepath.Join(s.o.Dir, StoredName), doc); err != nil {
		return err
	}
	if err := keepGood(s.o.Dir, m); err != nil {
		s.o.Log.Warn("keep a copy of the configuration", "error", err)
	}
	return nil
}

func (s *Store) publish(m config.Machine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current, s.source = m, SourceAPI
	for c := range s.subscribers {
		// Under mu there is no other sender: drop what was not taken yet, then there is room.
		select {
		case <-c:
		default:
		}
		c <- m
	}
}
