// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package scavenge

import (
	"runtime/metrics"
	"testing"
	"testing/synctest"
	"time"

	"context"
)

func TestDue(t *testing.T) {
	const busy = 4 << 20
	var w watch
	steps := []struct {
		allocates uint64 // since the step before
		want      bool
	}{
		{busy, false}, {busy, false}, {1000, true}, // work, work, rest
		{1000, false}, {1000, false}, // it stays at rest: nothing to give back
		{busy, false}, {quiet, false}, {quiet - 1, true},
	}
	now := uint64(0)
	for i, s := range steps {
		now += s.allocates
		got := w.due(now)
		if got != s.want {
			t.Errorf("step %d: due is %v", i, got)
		}
		if got {
			w.done(now)
		}
	}
	// A trickle adds up, in the end.
	for range worthwhile/1000 + 1 {
		now += 1000
		if w.due(now) {
			return
		}
	}
	t.Error("a trickle is never due")
}

var sink []byte

// TestAtRest sees the heap shrink some seconds after the last big allocation.
func TestAtRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		go AtRest(ctx)
		sink = make([]byte, 64<<20)
		sink = nil
		before := released()
		time.Sleep(3 * every)
		synctest.Wait()
		if got := released(); got < before+(32<<20) {
			t.Errorf("%d bytes were given back, before %d", got, before)
		}
		cancel()
	})
}

func released() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
