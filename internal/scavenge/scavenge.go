// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package scavenge gives memory back to the kernel when a program is at rest.
//
// After work, a Go program keeps what it has freed and garbage that it has not
// yet found: a collection comes when the heap has grown again, and a quiet heap does
// not. On a small machine that is memory which containers could have. While it
// works nothing changes. It owns no memory and nothing can fail.
package scavenge

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// every is how often it looks: it also is how long a program must be quiet.
	every = 10 * time.Second
	// quiet is what a program at rest may allocate in that time.
	quiet = 128 << 10
	// worthwhile is how much must have been allocated since the last time. One collection of a
	// small heap costs some ten milliseconds.
	worthwhile = 512 << 10
)

// AtRest collects and gives back all free memory each time the program has worked
// and become quiet, until ctx ends.
func AtRest(ctx context.Context) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var w watch
	for {
		select {
		case <-tick.C:
			if w.due(allocated()) {
				debug.FreeOSMemory()
				w.done(allocated())
			}
		case <-ctx.Done():
			return
		}
	}
}

// watch is what was seen of the bytes that the program ever allocated.
type watch struct {
	last  uint64 // at the last look
	freed uint64 // when memory was given back
}

// due says whether the program worked since memory was given back and is quiet now.
func (w *watch) due(now uint64) bool {
	since := now - w.last
	w.last = now
	return since < quiet && now-w.freed >= worthwhile
}

func (w *watch) done(now uint64) { w.last, w.freed = now, now }

func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
