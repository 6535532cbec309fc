// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/atomicfile"
)

const (
	// spaceEvery is how often the free space is looked at: one system call.
	spaceEvery = 15 * time.Second
	// A file system with less than this is as good as full; with twice as much it is not any more.
	fullBytes = 32 << 20
	// fullShare is the same for small ones, a part of the whole.
	fullShare = 50
)

// watchSpace sets space aside for the machine's records, and tells the board
// when the file system is full: nothing else would say so before something fails.
func (s *Storage) watchSpace(ctx context.Context) {
	go func() {
		// On a disk that is full already, what an earlier boot set aside has to do.
		if err := atomicfile.Reserve(s.options.Dir); err != nil && !errors.Is(err, unix.ENOSPC) {
			s.options.Log.Warn("no space for the machine's records on a full disk", "error", err)
		}
		full := false
		for ctx.Err() == nil {
			var fs unix.Statfs_t
			if unix.Statfs(s.options.Dir, &fs) == nil {
				full = s.tellSpace(full, fs.Blocks*uint64(fs.Bsize), fs.Bavail*uint64(fs.Bsize))
			}
			select {
			case <-ctx.Done():
			case <-time.After(spaceEvery):
			}
		}
	}()
}

// tellSpace reports a change, and says whether the file system is full now.
func (s *Storage) tellSpace(full bool, total, free uint64) bool {
	now := isFull(full, total, free)
	switch {
	case now && !full:
		s.options.Log.Warn("the state disk is full", "place", s.place.Name, "free", free, "of", total)
		s.report(false, s.place.Name+" is full: remove images, volumes or containers") // fits a line of the console
	case !now && full:
		s.report(true, "state on "+s.place.Name)
	}
	return now
}

func isFull(before bool, total, free uint64) bool {
	limit := min(fullBytes, total/fullShare)
	if before {
		limit *= 2
	}
	return free < limit
}
