// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// oomWatch tells of processes that the kernel killed for want of memory while
// their container goes on: the kernel reports each change of a cgroup's
// memory.events by inotify (Documentation/admin-guide/cgroup-v2.rst). What
// happens at a container's end is judged in handleEnd.
type oomWatch struct {
	file *os.File
	fd   int // of file, whose Fd method would make reads block a thread

	mu    sync.Mutex
	by    map[int32]*oomState // of the watch's number
	marks map[string]int32    // of the container's id
}

type oomState struct {
	c     *container
	kills int // seen so far
}

func newOOMWatch() (*oomWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch for lack of memory: %w", err)
	}
	return &oomWatch{file: os.NewFile(uintptr(fd), "inotify"), fd: fd, by: map[int32]*oomState{}, marks: map[string]int32{}}, nil
}

// add watches a container whose cgroup exists.
func (w *oomWatch) add(c *container, cgroup string, kills int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	path := filepath.Join(cgroup, "memory.events")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil // the machine does not account for memory, or the container has just ended
	}
	mark, err := unix.InotifyAddWatch(w.fd, path, unix.IN_MODIFY)
	if err != nil {
		return fmt.Errorf("watch for lack of memory: %w", err)
	}
	w.by[int32(mark)] = &oomState{c: c, kills: kills}
	w.marks[c.id] = int32(mark)
	return nil
}

// remove ends the watch, which the kernel may have done with the cgroup, and
// says how many kills were told of.
func (w *oomWatch) remove(id string) (told int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	mark, ok := w.marks[id]
	if !ok {
		return 0
	}
	told = w.by[mark].kills                        // both maps change together
	_, _ = unix.InotifyRmWatch(w.fd, uint32(mark)) // see above
	delete(w.by, mark)
	delete(w.marks, id)
	return told
}

// news returns the container of a watch if count says of more kills than were told of.
func (w *oomWatch) news(mark int32, count func(id string) int) *container {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.by[mark]
	if s == nil {
		return nil
	}
	n := count(s.c.id)
	if n <= s.kills {
		return nil
	}
	s.kills = n
	return s.c
}

// watchOOM passes on what oomWatch sees until ctx ends.
func (e *Engine) watchOOM(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { e.oom.file.Close() })
	defer stop()
	b := make([]byte, 4096)
	for {
		n, err := e.oom.file.Read(b)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			e.log.Error("engine: watch for lack of memory", "err", err)
			return
		}
		for rest := b[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			mark, name := int32(binary.NativeEndian.Uint32(rest)), binary.NativeEndian.Uint32(rest[12:])
			if c := e.oom.news(mark, e.oomKills); c != nil {
				e.tellOOM(c)
			}
			rest = rest[min(len(rest), unix.SizeofInotifyEvent+int(name)):]
		}
	}
}

func (e *Engine) tellOOM(c *container) {
	e.publish(c, "oom", nil)
	if err := c.change(func(r *record) { r.State.OomKilled = true }); err != nil {
		e.log.Error("engine: record lack of memory", "id", c.id, "err", err)
	}
}
