// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package batch lets concurrent callers of a slow operation share one run of
// it. Whoever comes while a run is under way waits for its end, and then all
// who wait are one run. A single caller waits for nobody.
package batch

import (
	"errors"
	"sync"
)

var errPanicked = errors.New("the work that was shared met an error of its own")

// Runner runs Do with one or more items at a time, never twice at once.
type Runner[T any] struct {
	Do func(items []T) error

	mu      sync.Mutex
	waiting *run[T]
	running sync.Mutex // held while Do runs
}

// run is one call of Do. err is for all of its items; it is set when done is closed.
type run[T any] struct {
	items []T
	done  chan struct{}
	err   error
}

// Run returns when Do has run with item, and maybe with others'.
func (r *Runner[T]) Run(item T) error {
	r.mu.Lock()
	mine := r.waiting
	first := mine == nil
	if first {
		mine = &run[T]{done: make(chan struct{})}
		r.waiting = mine
	}
	mine.items = append(mine.items, item)
	r.mu.Unlock()
	if first {
		r.lead(mine)
	}
	<-mine.done
	return mine.err
}

// lead waits for the run before, closes this one to others, and does it.
func (r *Runner[T]) lead(mine *run[T]) {
	r.running.Lock()
	defer r.running.Unlock()
	defer close(mine.done)
	r.mu.Lock()
	r.waiting = nil
	r.mu.Unlock()
	mine.err = errPanicked // if it does; the caller that led may recover, and the others must not take that for a success
	mine.err = r.Do(mine.items)
}
