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
