// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package storage

import (
	"log/slog"
	"strings"
	"testing"

	"wherry.example/wherry/internal/machine/status"
)

func TestFull(t *testing.T) {
	const m = 1 << 20
	for _, tc := range []struct {
		before      bool
		total, free uint64
		want        bool
	}{
		{false, 1000 * m, 500 * m, false},
		{false, 1000 * m, 19 * m, true},
		{true, 1000 * m, 30 * m, true},
		{true, 1000 * m, 41 * m, false},
		{false, 16 << 20 * m, 33 * m, false},
		{false, 16 << 20 * m, 31 * m, true},
		{false, 80 * m, 2 * m, false},
		{false, 80 * m, m, true},
	} {
		if got := isFull(tc.before, tc.total, tc.free); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
}

func TestTellSpace(t *testing.T) {
	board := &status.Board{}
	s := &Storage{options: Options{Board: board, Log: slog.New(slog.DiscardHandler)}, place: place{Name: "vda1"}}
	line := func() status.Subsystem { return board.List()[0] }
	if full := s.tellSpace(false, 1<<30, 1<<20); !full || line().Ready || !strings.Contains(line().Message, "vda1 is full: remove") {
		t.Errorf("%v, %+v", full, line())
	}
	if full := s.tellSpace(true, 1<<30, 1<<29); full || !line().Ready {
		t.Errorf("%v, %+v", full, line())
	}
}
