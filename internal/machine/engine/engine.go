// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package engine runs containers. It hides containerd's libraries, which keep
// images and snapshots, and the shim, which holds the processes: nothing else
// of Wherry imports them.
//
// What it owns. Root (/state/engine) holds containerd's content, snapshots and
// metadata below containerd/, and one directory for each container below
// containers/ID: record.json, the log files and the container's own hosts,
// hostname and resolv.conf. The record is the truth of what
// should run; everything that the stores, the shim and the kernel know is derived from it
// and thrown away when it disagrees. RunDir (/run/wherry/engine) holds what dies
// with the boot: for each container its mounted root file system, its FIFOs and
// its bundle, which is there exactly while the shim may hold a task of it; and in
// holds/ the output that is on its way from a FIFO to a log.
//
// Life of a container. Create checks the request, fills in the image's values,
// writes a record in phase creating, makes the snapshot and the volumes, and
// only then writes the record as created. Start mounts the snapshot, creates the
// task, joins the networks, lets the task go and records it as running. The end
// of a task is recorded with its exit code before anything is cleaned up; then
// the restart policy decides. Remove first records removing, then cleans up, and
// deletes the record last. So a SIGKILL between any two steps leaves a record
// that says which way to go on: creating and removing are removed, everything
// else is brought in line with what runs.
//
// Start of the engine. Records are compared with what the shim holds, which
// outlives this process and keeps ended tasks, with their exit codes and the output that
// nobody read, until they are deleted: output that was on its way to a log is brought there, running tasks are adopted and their output is
// read on, ends are recorded, restart policies are applied, tasks, snapshots and
// mounts without a record are removed.
//
// System containers have names of their own and are not found by the calls of
// users. Snapshots and images of both are labelled, and kept from the garbage
// collector by that label.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"

	"wherry.example/wherry/config"
	"wherry.example/wherry/internal/machine/engine/images"
	"wherry.example/wherry/internal/machine/engine/tasks"
	"wherry.example/wherry/internal/machine/status"
)

// imageNamespace is the namespace of containerd that holds all images and snapshots.
const imageNamespace = "wherry"

// Options is what an Engine needs to know once.
type Options struct {
	Root    string // what outlives a boot: /state/engine
	RunDir  string // our runtime files: /run/wherry/engine
	Shim    string // absolute path of wherry-shim
	ShimDir string // its runtime files: /run/wherry/shim
	Reaped  string // PID 1's record of orphans: /run/wherry/reaped
	// CgroupParent is the cgroup below which containers live, "/wherry" when empty.
	CgroupParent string
	// Hostname is used by containers that join the machine's own network.
	Hostname string
	// HostResolvConf is the machine's resolv.conf, given to containers on the host network.
	HostResolvConf string
	Network        Network
	Volumes        Volumes
	Board          *status.Board
	Log            *slog.Logger
	Settings       Settings
}

// Settings is the part of the machine's configuration that the engine follows.
// It can change while the engine runs.
type Settings struct {
	Registries []config.Registry
	Containers config.Containers
}

// Engine runs containers and keeps images. It is safe for concurrent use.
type Engine struct {
	opts     Options
	log      *slog.Logger
	images   *images.Keeper
	stores   *stores
	shim     *tasks.Shim
	oom      *oomWatch
	holds    *holds // output on its way from FIFOs to logs
	settings atomic.Pointer[Settings]
	table    table
	events   eventRing
	slots    chan struct{} // bounds how many containers start or are cleaned up at once
	bootID   string

	systemMu   sync.Mutex   // one EnsureSystem works at a time
	systemTurn atomic.Int64 // the newest call

	// life ends when the engine closes; background work derives from it.
	life     context.Context
	endLife  context.CancelFunc
	stopping atomic.Bool // Shutdown has begun: nothing restarts
	work     sync.WaitGroup
}

// New opens the stores, brings records and reality together and returns when running containers are adopted. Containers that have to be
// started again are started in the background.
func New(ctx context.Context, o Options) (*Engine, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	e := &Engine{opts: o, log: o.Log, slots: make(chan struct{}, startSlots())}
	e.settings.Store(&o.Settings)
	e.life, e.endLife = context.WithCancel(context.WithoutCancel(ctx))
	e.bootID = readBootID()
	e.board(false, "starting")
	e.shim = tasks.New(tasks.Options{Program: o.Shim, Dir: o.ShimDir, Reaped: o.Reaped, Log: o.Log})
	if err := e.open(); err != nil {
		e.endLife()
		e.board(false, err.Error())
		return nil, err
	}
	e.images = e.newImages()
	e.images.Recover(e.life)
	if err := e.reconcile(e.life); err != nil {
		e.Close()
		e.board(false, err.Error())
		return nil, fmt.Errorf("bring containers back: %w", err)
	}
	e.work.Go(func() { e.watchOOM(e.life) })
	e.work.Go(func() { e.collectRemoved(e.life) })
	e.board(true, "")
	return e, nil
}

// open opens what has to be closed.
func (e *Engine) open() (err error) {
	if e.holds, err = openHolds(filepath.Join(e.opts.RunDir, "holds"), e.log); err != nil {
		return err
	}
	if e.oom, err = newOOMWatch(); err != nil {
		return err
	}
	if e.stores, err = openStores(imageContext(e.life), filepath.Join(e.opts.Root, "containerd"), e.log); err != nil {
		e.oom.file.Close()
		return fmt.Errorf("open the stores of images: %w", err)
	}
	return nil
}

func (o *Options) complete() error {
	for _, p := range []string{o.Root, o.RunDir, o.Shim, o.ShimDir} {
		if !filepath.IsAbs(p) {
			return fmt.Errorf("engine options: %q is not an absolute path", p)
		}
	}
	if o.Network == nil || o.Volumes == nil {
		return errors.New("engine options: Network and Volumes are needed")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.CgroupParent == "" {
		o.CgroupParent = "/wherry"
	}
	for _, d := range []string{o.Root, filepath.Join(o.Root, "containers"), o.RunDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("engine options: %w", err)
		}
	}
	return nil
}

// Configure makes the engine follow new settings from the next call on.
func (e *Engine) Configure(s Settings) { e.settings.Store(&s) }

// Close ends the engine without touching containers: they keep running and are
// adopted by the next one. Shutdown stops them.
func (e *Engine) Close() {
	e.stopping.Store(true)
	e.endLife()
	e.shim.Close()
	done := make(chan struct{})
	go func() { e.work.Wait(); close(done) }()
	select {
	case <-done:
		e.holds.close()
		e.stores.Close()
	case <-time.After(5 * time.Second):
		e.log.Warn("engine: background work did not end in time")
	}
}

func (e *Engine) board(ready bool, message string) {
	if e.opts.Board != nil {
		e.opts.Board.Set("engine", ready, message)
	}
}

// imageContext is the context of calls about images and snapshots.
func imageContext(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, imageNamespace)
}
