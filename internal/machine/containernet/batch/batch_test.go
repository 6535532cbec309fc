// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestRunnerSharesRuns(t *testing.T) {
	var runs, items, at atomic.Int32
	r := Runner[int]{Do: func(batch []int) error {
		if at.Add(1) > 1 {
			t.Error("two runs at once")
		}
		time.Sleep(10 * time.Millisecond)
		at.Add(-1)
		runs.Add(1)
		items.Add(int32(len(batch)))
		return nil
	}}
	var done sync.WaitGroup
	for i := range 100 {
		done.Go(func() {
			if err := r.Run(i); err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	if items.Load() != 100 || runs.Load() > 20 {
		t.Errorf("%d items in %d runs", items.Load(), runs.Load())
	}
}

func TestRunnerTellsAll(t *testing.T) {
	bad := errors.New("bad")
	r := Runner[int]{Do: func([]int) error { return bad }}
	for range 2 {
		if err := r.Run(1); err != bad {
			t.Errorf("%v", err)
		}
	}
}

// A panic is its caller's; who waited for the same run must not believe that all went well.
func TestRunnerTellsOfAPanic(t *testing.T) {
	hold, waits := make(chan struct{}), make(chan struct{})
	r := Runner[string]{Do: func(batch []string) error {
		if batch[0] == "first" {
			close(waits)
			<-hold
			return nil
		}
		panic("of Do")
	}}
	go r.Run("first")
	<-waits
	answers := make(chan error, 2)
	for range 2 {
		go func() {
			defer func() {
				if recover() != nil {
					answers <- nil
				}
			}()
			answers <- r.Run("second")
		}()
	}
	for r.waitingItems() < 2 {
		time.Sleep(time.Millisecond)
	}
	close(hold)
	if one, other := <-answers, <-answers; one == nil && other == nil {
		t.Error("the one that waited was told that it worked")
	}
}

func (r *Runner[T]) waitingItems() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting == nil {
		return 0
	}
	return len(r.waiting.items)
}
