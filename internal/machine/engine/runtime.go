// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/services/tasks/v1"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// This file is all that knows how a task comes to be and is found again. A
// shim of our own for all containers replaces newTask and loadTask (with
// client.WithSandbox and client.WithTaskAPIEndpoint) and probeShims; see
// docs/decisions/0003-engine.md.

const runtimeName = "io.containerd.runc.v2"

// showShim puts the shim's directory into PATH, where containerd looks for it
// by its runtime's name. An absolute path instead would make it ask the shim
// for its abilities at every start, which costs one more process.
func showShim(shim string) error {
	if filepath.Base(shim) != "containerd-shim-runc-v2" {
		return fmt.Errorf("the shim %s has to be called containerd-shim-runc-v2", shim)
	}
	dir := filepath.Dir(shim)
	if slices.Contains(filepath.SplitList(os.Getenv("PATH")), dir) {
		return nil
	}
	return os.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
}

// taskContext is the context of calls about containers and tasks.
func (c *container) taskContext(ctx context.Context) context.Context {
	if c.system {
		return namespaces.WithNamespace(ctx, systemNamespace)
	}
	return namespaces.WithNamespace(ctx, userNamespace)
}

func (e *Engine) runcOptions() *runcoptions.Options {
	return &runcoptions.Options{BinaryName: e.opts.Runc, Root: filepath.Join(e.opts.State, "runc"), SystemdCgroup: false}
}

// newTask makes the container known to containerd and its process exist up to
// the point before its first instruction.
func (e *Engine) newTask(ctx context.Context, c *container, spec *specs.Spec, io cio.IO) (client.Task, error) {
	ctx = c.taskContext(ctx)
	any, err := typeurl.MarshalAny(spec)
	if err != nil {
		return nil, err
	}
	options, err := typeurl.MarshalAny(e.runcOptions())
	if err != nil {
		return nil, err
	}
	store := e.client.ContainerService()
	entry := containers.Container{ID: c.id, Spec: any, Runtime: containers.RuntimeInfo{Name: runtimeName, Options: options}}
	if _, err = store.Create(ctx, entry); errdefs.IsAlreadyExists(err) {
		_, err = store.Update(ctx, entry, "spec", "runtime")
	}
	if err != nil {
		return nil, fmt.Errorf("tell containerd of the container: %w", err)
	}
	loaded, err := e.client.LoadContainer(ctx, c.id)
	if err != nil {
		return nil, err
	}
	return loaded.NewTask(ctx, func(string) (cio.IO, error) { return io, nil })
}

// loadTask finds the task of an earlier life of this process; nil when there is none.
func (e *Engine) loadTask(ctx context.Context, c *container) (client.Task, error) {
	ctx = c.taskContext(ctx)
	loaded, err := e.client.LoadContainer(ctx, c.id)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	t, err := loaded.Task(ctx, nil)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	return t, err
}

// hiddenBundle begins the names of bundles that containerd does not look at.
const hiddenBundle = "."

// deleteTask deletes an ended task. containerd runs "shim delete", and that runs
// "runc delete", whenever a shim's connection ends, also when it ended because
// the task was deleted in order: two processes for nothing, a sixth of what a
// short container costs. So the shim is asked directly, and the bundle is out of
// sight before containerd tells the shim to go: the superfluous command cannot
// even begin. A crash in between leaves a hidden bundle, whose shim the next
// life dismisses (probeShims).
func (e *Engine) deleteTask(ctx context.Context, c *container, t client.Task) error {
	ctx = c.taskContext(ctx)
	bundle := e.bundlePath(c)
	err := callShim(ctx, bundle, func(shim taskapi.TTRPCTaskService) error {
		_, err := shim.Delete(ctx, &taskapi.DeleteRequest{ID: c.id})
		return err
	})
	hidden := filepath.Join(filepath.Dir(bundle), hiddenBundle+c.id)
	if err == nil {
		err = os.Rename(bundle, hidden)
	}
	if err != nil { // then as containerd would have it
		return endTask(ctx, t)
	}
	_, err = e.client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: c.id})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return removeBundle(hidden)
}

// endTask kills and deletes a task whatever its state. While the shim is dying
// containerd answers with errors until it has cleaned up after it: the task is
// gone when containerd says so, not before.
func endTask(ctx context.Context, t client.Task) error {
	for {
		_, err := t.Delete(ctx, client.WithProcessKill)
		if err == nil || errdefs.IsNotFound(err) {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

func (e *Engine) bundlePath(c *container) string {
	ns := userNamespace
	if c.system {
		ns = systemNamespace
	}
	return filepath.Join(e.opts.State, "io.containerd.runtime.v2.task", ns, c.id)
}

// removeBundle removes a hidden bundle and the directory that its link names.
func removeBundle(hidden string) error {
	var errs []error
	if work, err := os.Readlink(filepath.Join(hidden, "work")); err == nil {
		errs = append(errs, os.RemoveAll(work))
	}
	return errors.Join(append(errs, os.RemoveAll(hidden))...)
}

// dismissShim ends the shim of a hidden bundle: its task was deleted.
func dismissShim(ctx context.Context, hidden string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_ = callShim(ctx, hidden, func(shim taskapi.TTRPCTaskService) error { // it may have gone by itself
		_, err := shim.Shutdown(ctx, &taskapi.ShutdownRequest{Now: true})
		return err
	})
	_ = removeBundle(hidden) // on a file system that ends with the boot
}

// forgetTask removes what containerd knows of the container. It is idempotent.
func (e *Engine) forgetTask(ctx context.Context, c *container) error {
	err := e.client.ContainerService().Delete(c.taskContext(ctx), c.id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// startError gives the error of a start docker's exit code. runc says what it
// met in words alone.
func startError(err error) error {
	text := err.Error()
	// The interesting part is the last that runc said.
	if i := strings.LastIndex(text, "exec: "); i >= 0 {
		text = text[i:]
	} else if i := strings.LastIndex(text, "runc create failed: "); i >= 0 {
		text = text[i+len("runc create failed: "):]
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
	return &Error{Kind: kind, ExitCode: code, Err: fmt.Errorf("start the container: %s", strings.TrimSpace(text))}
}

// passiveIO names the FIFOs to containerd; this package opens and reads them
// itself (see stdio), because containerd's copies end with the task object.
type passiveIO struct{ config cio.Config }

func (p passiveIO) Config() cio.Config { return p.config }
func (passiveIO) Cancel()              {}
func (passiveIO) Wait()                {}
func (passiveIO) Close() error         { return nil }
