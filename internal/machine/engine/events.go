// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"wherry.example/wherry/api/wherryv1"
)

// keptEvents is how far back a caller can look.
const keptEvents = 1024

// eventRing keeps the last events and wakes who waits for more. Listeners read
// the ring at their own pace; one that falls behind misses events and is told.
type eventRing struct {
	mu      sync.Mutex
	events  []*wherryv1.Event // the last keptEvents
	first   uint64            // number of events[0]
	changed chan struct{}
}

func (r *eventRing) add(ev *wherryv1.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, ev)
	if over := len(r.events) - keptEvents; over > 0 {
		r.events = slices.Delete(r.events, 0, over)
		r.first += uint64(over)
	}
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// after returns the events from number n on, the next number, and a channel
// that closes when there are more.
func (r *eventRing) after(n uint64) ([]*wherryv1.Event, uint64, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	skip := uint64(0)
	if n > r.first {
		skip = min(n-r.first, uint64(len(r.events)))
	}
	return slices.Clone(r.events[skip:]), r.first + uint64(len(r.events)), r.changed
}

func (r *eventRing) next() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.first + uint64(len(r.events))
}

// Publish adds an event of another subsystem.
func (e *Engine) Publish(ev *wherryv1.Event) {
	if ev.Time == nil {
		ev.Time = timestamppb.Now()
	}
	e.events.add(ev)
}

func (e *Engine) publish(c *container, action string, attributes map[string]string) {
	rec := c.record()
	if rec.System {
		return
	}
	a := map[string]string{"image": rec.Image.Name}
	maps.Copy(a, attributes)
	e.Publish(&wherryv1.Event{Kind: "container", Action: action, Id: rec.ID, Name: rec.Name, Attributes: a})
}

// Events sends what happened since, and what happens until; without until it
// goes on until the caller hangs up.
func (e *Engine) Events(ctx context.Context, q *wherryv1.StreamEventsRequest, send func(*wherryv1.Event) error) error {
	since, until := timeOf(q.Since), timeOf(q.Until)
	n := e.events.next()
	if q.Since != nil {
		n = 0
	}
	if !until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, until)
		defer cancel()
	}
	for {
		list, next, more := e.events.after(n)
		n = next
		for _, ev := range list {
			at := ev.Time.AsTime()
			if at.Before(since) || !until.IsZero() && at.After(until) || len(q.Kinds) > 0 && !slices.Contains(q.Kinds, ev.Kind) {
				continue
			}
			if err := send(ev); err != nil {
				return err
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			if !until.IsZero() && !time.Now().Before(until) {
				return nil
			}
			return ctx.Err()
		}
	}
}
