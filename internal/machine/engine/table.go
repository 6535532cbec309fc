// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

// container is one record and what belongs to it while this process lives.
//
// Two locks. op serialises what takes long: start, the work after an end, and
// removal. mu guards the fields and is never held over a call that can block,
// except the write of the record. A stop only signals and waits for changes,
// so it never waits behind a start.
type container struct {
	id     string
	dir    string // of the record and the logs
	system bool
	op     chan struct{}

	mu      sync.Mutex
	rec     record
	run     *run          // of the running task
	last    *run          // that one, or the one before
	changed chan struct{} // closed and replaced at each change
	exits   uint64        // ends seen by this process
	gone    bool          // removed
	readers int           // callers that still read the output
	retry   *time.Timer   // of a restart that is due
	logs    *logFile
}

func newContainer(r record, dir string) *container {
	return &container{id: r.ID, dir: dir, system: r.System, rec: r, op: make(chan struct{}, 1), changed: make(chan struct{})}
}

// lock takes op. It gives up with the context.
func (c *container) lock(ctx context.Context) error {
	select {
	case c.op <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *container) unlock() { <-c.op }

// change alters the record, writes it and wakes who waits. When the write
// fails the change stands in memory all the same: reality has moved on, and
// recovery will find it out again.
func (c *container) change(f func(r *record)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return nil
	}
	// The state message is replaced, never altered: readers hold the old one.
	next := c.rec.clone()
	f(&next)
	c.rec = next
	err := next.save(c.dir)
	c.wakeLocked()
	return err
}

// note alters what is worth nothing after a crash: it is not written.
func (c *container) note(f func(r *record)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.rec.clone()
	f(&next)
	c.rec = next
	c.wakeLocked()
}

func (c *container) wakeLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// read keeps the output from an automatic removal until release is called.
func (c *container) read() (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readers++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.readers--
		c.wakeLocked()
	}
}

// waitReaders waits until nobody reads the output any more, within limits.
func (c *container) waitReaders(ctx context.Context, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		c.mu.Lock()
		n, changed := c.readers, c.changed
		c.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// look returns the record as it is and a channel that closes at the next
// change. The record's messages must not be altered.
func (c *container) look() (record, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rec, c.changed
}

func (c *container) record() record {
	r, _ := c.look()
	return r
}

func (c *container) running() *run {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.run
}

// runningOrError is for calls that need a running container.
func (c *container) runningOrError() (*run, error) {
	if r := c.running(); r != nil {
		return r, nil
	}
	return nil, errorf(KindFailedPrecondition, "container %s is not running", c.record().Name)
}

// table finds containers by id and name. Names are unique among the users'
// containers and among the system's.
type table struct {
	mu    sync.RWMutex
	byID  map[string]*container
	names map[nameKey]string
}

type nameKey struct {
	system bool
	name   string
}

// reserve takes a name for an id before anything is written.
func (t *table) reserve(k nameKey, id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.names == nil {
		t.byID, t.names = map[string]*container{}, map[nameKey]string{}
	}
	if other, taken := t.names[k]; taken {
		return errorf(KindConflict, "the name %q is in use by container %s; remove or rename that one", k.name, shortID(other))
	}
	t.names[k] = id
	return nil
}

func (t *table) release(k nameKey, id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.names[k] == id {
		delete(t.names, k)
	}
}

func (t *table) add(c *container) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID == nil {
		t.byID = map[string]*container{}
	}
	t.byID[c.id] = c
}

func (t *table) remove(c *container) {
	r := c.record()
	t.release(nameKey{r.System, r.Name}, c.id)
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byID, c.id)
}

// all returns every container, oldest first.
func (t *table) all() []*container {
	t.mu.RLock()
	list := make([]*container, 0, len(t.byID))
	for _, c := range t.byID {
		list = append(list, c)
	}
	t.mu.RUnlock()
	slices.SortFunc(list, func(a, b *container) int {
		if d := a.record().CreatedAt.Compare(b.record().CreatedAt); d != 0 {
			return d
		}
		return strings.Compare(a.id, b.id)
	})
	return list
}

// find resolves a full id, a name, or a unique prefix of an id, in this order.
// Containers of the other scope do not exist for it.
func (t *table) find(ref string, system bool) (*container, error) {
	if ref == "" || len(ref) > 256 {
		return nil, errorf(KindInvalid, "a container is named by its id or name")
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if c := t.byID[ref]; c != nil && c.system == system {
		return c, nil
	}
	if id, ok := t.names[nameKey{system, strings.TrimPrefix(ref, "/")}]; ok && t.byID[id] != nil {
		return t.byID[id], nil
	}
	var found *container
	for id, c := range t.byID {
		if c.system != system || !strings.HasPrefix(id, ref) {
			continue
		}
		if found != nil {
			return nil, errorf(KindInvalid, "%q is the beginning of more than one container's id", ref)
		}
		found = c
	}
	if found == nil {
		return nil, errorf(KindNotFound, "no such container: %s", ref)
	}
	return found, nil
}

func shortID(id string) string { return id[:min(12, len(id))] }
