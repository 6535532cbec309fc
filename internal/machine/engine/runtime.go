// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"wherry.example/wherry/internal/machine/engine/tasks"
)

// This file is what the engine's records have to do with the shim's tasks.

// task names the container's first process to the shim.
func (c *container) task() tasks.Process { return tasks.Process{Container: c.id} }

// bundlePath is there exactly while the shim may hold a task of the container.
func (e *Engine) bundlePath(id string) string { return filepath.Join(e.runPath(id), "bundle") }

// endTask ends and deletes the container's task whatever its state. It is idempotent.
func (e *Engine) endTask(ctx context.Context, id string) error {
	if _, err := os.Stat(e.bundlePath(id)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := e.shim.End(ctx, tasks.Process{Container: id}); err != nil {
		return fmt.Errorf("end the container's processes: %w", err)
	}
	return os.RemoveAll(e.bundlePath(id))
}

// taskState asks the shim for a task of an earlier life of this process; ok is
// false when there is none.
func (e *Engine) taskState(ctx context.Context, c *container) (st tasks.State, ok bool, err error) {
	if _, err := os.Stat(e.bundlePath(c.id)); errors.Is(err, os.ErrNotExist) {
		return st, false, nil
	}
	st, err = e.shim.State(ctx, c.task())
	if errdefs.IsNotFound(err) {
		return st, false, nil
	}
	return st, err == nil, err
}

// killTask ends and deletes a task on the way back from a failure.
func (e *Engine) killTask(ctx context.Context, c *container) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	e.logUndo(c, e.endTask(ctx, c.id))
}

// startError gives the error of a start docker's exit code; what says what was
// started. libcontainer says what it met in words alone.
func startError(what string, err error) error {
	if errors.Is(err, tasks.ErrLost) {
		return &Error{Kind: KindUnavailable, ExitCode: 125, Err: fmt.Errorf("%w; please try again", err)}
	}
	text := err.Error()
	// The interesting part comes last.
	if i := strings.LastIndex(text, "exec: "); i >= 0 {
		text = text[i:]
	} else {
		for _, before := range []string{"unable to start container process: ", "error during container init: "} {
			if i := strings.LastIndex(text, before); i >= 0 {
				text = text[i+len(before):]
			}
		}
	}
	code := 125
	switch {
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "exec: ") && strings.Contains(text, "no such file or directory"):
		code = 127
	case strings.Contains(text, "permission denied"), strings.Contains(text, "is a directory"), strings.Contains(text, "exec format error"),
		strings.Contains(text, "not a directory") && strings.Contains(text, "exec: "):
		code = 126
	}
	kind := KindInternal
	if code != 125 {
		kind = KindInvalid
	}
	return &Error{Kind: kind, ExitCode: code, Err: fmt.Errorf("start the %s: %s", what, strings.TrimSpace(text))}
}
