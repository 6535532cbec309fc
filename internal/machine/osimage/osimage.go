// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package osimage gives the memory of the OS image back.
//
// A machine boots from memory: the root image lies in the initramfs, and
// nothing waits for a disk. Where memory is scarce (config: storage.osImage),
// this package then copies the image to the state disk and puts the root upon
// the copy (LOOP_CHANGE_FD), which frees the memory. Nothing on the disk can
// change the OS all the same: the copy is read through dm-verity, whose hash
// tree is built from the image in memory at every boot, with a new salt, and
// whose root hash never leaves the kernel's memory. The tree itself lies behind
// the image in the same file: dm-verity checks it too.
//
// It owns the loop device of the root, the device wherry-os-image of the device
// mapper, and STATE/machine/osimage/. PID 1 knows about the former at the end
// of a run: it makes the state read-only instead of unmounting it.
//
// Failures: before the switch, the root stays where it is, in memory; one
// warning and the board tell why. A copy that was damaged on the disk is
// written again, and the image stays in memory until the next start: what a
// disk has lost once it may lose again. After the switch, a block that does not
// match its hash makes the kernel panic, and the machine restart from memory:
// programs that die one after the other of reads that fail would leave a
// machine that neither works nor says why. A wherryd that was killed finds the
// switch done, or removes what was begun and begins again.
package osimage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/machine/status"
)

// subsystem is the name on the board.
const subsystem = "os image"

// quiet is how long a machine has been ready before its image moves: what was
// running before comes first.
const quiet = 5 * time.Second

// background is the nice value of the copying.
const background = 10

// Options of New.
type Options struct {
	// State is where the state is mounted; Persistent says that it is on a disk.
	State      string
	Persistent bool
	// Modules loads kernel modules.
	Modules func(...string) error
	Board   *status.Board
	Log     *slog.Logger
}

// Image is the OS image of the machine.
type Image struct {
	options Options
	tried   bool
}

// New returns the image as it is.
func New(o Options) *Image { return &Image{options: o} }

func (m *Image) dir() string { return filepath.Join(m.options.State, "machine", "osimage") }

// Run keeps the image where the configuration wants it, until ctx ends. It is
// begun when the machine is ready.
func (m *Image) Run(ctx context.Context, where <-chan string) {
	// The thread is not given back: it ends with the goroutine, and its priority with it.
	runtime.LockOSThread()
	unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), background)
	select {
	case <-time.After(quiet):
	case <-ctx.Done():
		return
	}
	for {
		select {
		case w := <-where:
			m.place(ctx, w)
		case <-ctx.Done():
			return
		}
	}
}

// place tries to move once in the life of a wherryd: what failed will fail again.
func (m *Image) place(ctx context.Context, where string) {
	device, err := rootDevice()
	if err != nil {
		m.trouble(err)
		return
	}
	s, err := m.observe(device)
	if err != nil {
		m.trouble(err)
		return
	}
	p := decide(where, s)
	if p.Move && m.tried {
		return
	}
	m.options.Board.Set(subsystem, !p.Trouble, p.Message)
	if !p.Move {
		return
	}
	m.tried = true
	before, began := available(), time.Now()
	if err := m.move(ctx, device, s.Bytes); err != nil {
		if ctx.Err() == nil {
			m.trouble(err)
		}
		return
	}
	m.options.Log.Info("the OS image moved from memory to the state disk", "megabytes", s.Bytes/1e6,
		"gained", fmt.Sprintf("%.1f", float64(available()-before)/1e6), "took", time.Since(began).Round(time.Millisecond))
	m.options.Board.Set(subsystem, true, onDisk)
}

// trouble tells why the image stays in memory.
func (m *Image) trouble(err error) {
	m.options.Log.Warn("the OS image stays in memory", "error", err)
	message := fmt.Sprintf("%s: %v", inMemory, err)
	if errors.Is(err, errDamaged) {
		message = fmt.Sprintf("%v; it was written again, and is used from the next start on: check the disk", err)
	}
	m.options.Board.Set(subsystem, false, message)
}
