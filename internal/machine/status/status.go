// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package status is the board on which every subsystem of the machine writes
// how it fares, and from which the API and the console read. Status flows up:
// nothing here acts on what it reads.
package status

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// Subsystem is one line on the board.
type Subsystem struct {
	Name    string
	Ready   bool
	Message string // empty when there is nothing to say
	Since   time.Time
}

// Board is safe for concurrent use. The zero value is empty and ready.
type Board struct {
	mu      sync.Mutex
	lines   map[string]Subsystem
	waiters map[chan struct{}]struct{}
}

// Set writes a subsystem's line. Since moves only when the line changes.
func (b *Board) Set(name string, ready bool, message string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lines == nil {
		b.lines = map[string]Subsystem{}
	}
	old, ok := b.lines[name]
	if ok && old.Ready == ready && old.Message == message {
		return
	}
	b.lines[name] = Subsystem{Name: name, Ready: ready, Message: message, Since: time.Now()}
	for c := range b.waiters {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// List returns the board ordered by name.
func (b *Board) List() []Subsystem {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]Subsystem, 0, len(b.lines))
	for _, s := range b.lines {
		out = append(out, s)
	}
	slices.SortFunc(out, func(x, y Subsystem) int { return strings.Compare(x.Name, y.Name) })
	return out
}

// Watch returns a channel that receives after changes (several may fold into
// one) until cancel is called.
func (b *Board) Watch() (changes <-chan struct{}, cancel func()) {
	c := make(chan struct{}, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiters == nil {
		b.waiters = map[chan struct{}]struct{}{}
	}
	b.waiters[c] = struct{}{}
	return c, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.waiters, c)
	}
}
