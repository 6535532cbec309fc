// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package rebuild makes an OS file out of the running one and a delta, for updates.
//
// The work is done by a child process (wherry-shim, see package repack) in a control
// group of its own, which may have Memory bytes in all: what takes more is killed and the
// machine goes on. It owns the folder Dir, and begins each time by removing it, so that power
// may go at any moment: the next attempt begins anew. The running file is
// copied there first, because the boot partition is not to stay mounted.
//
// Whatever goes wrong (no room, another running file than the delta is for, a
// damaged delta, too much memory, the context's end) is an error, and the
// caller takes the whole file instead. The child proves the result by the hash in the delta;
// the caller compares it with the signed one as well.
package rebuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"wherry.example/wherry/internal/format/delta"
	"wherry.example/wherry/internal/linux/cgroup"
)

// Memory is what applying a delta may take in all.
const Memory = 96 << 20

// group is the control group of the child.
const group cgroup.Group = "/rebuild"

// Options of a Rebuilder.
type Options struct {
	Log     *slog.Logger
	Dir     string // on the state disk
	Program string // default: /bin/wherry-shim
	// Free is the room in a folder, for tests; nil asks the file system.
	Free func(dir string) (int64, error)
	// NoGroup leaves the bound on memory out, for tests on computers with other control groups.
	NoGroup bool
}

// Rebuilder makes OS files out of deltas, one at a time.
type Rebuilder struct{ o Options }

// New makes a Rebuilder, and removes what one that was cut has left.
func New(o Options) *Rebuilder {
	if o.Program == "" {
		o.Program = "/bin/wherry-shim"
	}
	if o.Free == nil {
		o.Free = free
	}
	if err := os.RemoveAll(o.Dir); err != nil {
		o.Log.Warn("rebuild: what was begun before stays", "err", err)
	}
	return &Rebuilder{o}
}

func free(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// Read opens the running OS file for as long as use runs.
type Read func(use func(*os.File) error) error

// Rebuild writes into dst what the delta makes of the running file. It calls progress now and then, and has returned from
// it when it returns: the work is copying the running file, unpacking, and writing the new one.
func (r *Rebuilder) Rebuild(ctx context.Context, running Read, d, dst *os.File, progress func(done, total int64)) error {
	h, err := r.begin(d)
	if err != nil {
		return err
	}
	defer func() {
		if err := os.RemoveAll(r.o.Dir); err != nil {
			r.o.Log.Warn("rebuild: the folder stays until the next time", "err", err)
		}
	}()
	old, plain := filepath.Join(r.o.Dir, "running.efi"), filepath.Join(r.o.Dir, "plain")
	defer watch([]part{{old, h.Old.Bytes}, {plain, h.Scratch}, {dst.Name(), h.New.Bytes}}, progress)()
	if err := running(func(f *os.File) error { return copyTo(ctx, old, f) }); err != nil {
		return fmt.Errorf("copy the running OS file: %w", err)
	}
	start := time.Now()
	if err := r.run(ctx, old, plain, d, dst); err != nil {
		return err
	}
	r.o.Log.Info("rebuild: made an OS file out of a delta", "seconds", int(time.Since(start).Seconds()))
	return nil
}

// part is a file that the work makes, from its beginning on.
type part struct {
	file string
	most int64
}

// watchEvery is how often people hear how far it is.
const watchEvery = 500 * time.Millisecond

// watch tells how much of the files is there until it is told to stop.
func watch(parts []part, progress func(done, total int64)) (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for going := true; going; {
			select {
			case <-end:
				going = false
			case <-time.After(watchEvery):
			}
			progress(measure(parts))
		}
	}()
	return func() { close(end); <-ended }
}

func measure(parts []part) (done, total int64) {
	for _, p := range parts {
		if info, err := os.Stat(p.file); err == nil {
			done += min(info.Size(), p.most)
		}
		total += p.most
	}
	return done, total
}

// spare is what must stay free for others.
const spare = 16 << 20

// begin reads the delta's header, and makes the folder if there is room for all that goes in it.
func (r *Rebuilder) begin(d *os.File) (h delta.Header, err error) {
	info, err := d.Stat()
	if err != nil {
		return h, err
	}
	if h, err = delta.ReadHeader(d, info.Size(), delta.DefaultLimits()); err != nil {
		return h, err
	}
	if err := errors.Join(os.RemoveAll(r.o.Dir), os.MkdirAll(r.o.Dir, 0o700)); err != nil {
		return h, fmt.Errorf("make the folder to rebuild in: %w", err)
	}
	room, err := r.o.Free(r.o.Dir)
	if err != nil {
		return h, err
	}
	if need := h.Old.Bytes + h.New.Bytes + h.Scratch + spare; room < need {
		return h, errors.Join(fmt.Errorf("rebuilding takes %d MB of disk, and %d MB are free", need>>20, room>>20), os.RemoveAll(r.o.Dir))
	}
	return h, nil
}

func copyTo(ctx context.Context, name string, from *os.File) error {
	to, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	for err == nil && ctx.Err() == nil {
		_, err = io.CopyN(to, from, 1<<20)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, ctx.Err(), to.Close())
}

// maxComplaint is how much of what the child says is kept.
const maxComplaint = 2 << 10

// run runs the child to its end. It reaches the files that are open here under the
// numbers they have in it.
func (r *Rebuilder) run(ctx context.Context, old, plain string, d, dst *os.File) error {
	cmd := exec.CommandContext(ctx, r.o.Program, "rebuild", "--old", old, "--delta", "/proc/self/fd/3", "--new", "/proc/self/fd/4", "--scratch", plain)
	cmd.ExtraFiles = []*os.File{d, dst}
	cmd.Env = []string{}
	complaint := &tail{limit: maxComplaint}
	cmd.Stderr = complaint
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if !r.o.NoGroup {
		dir, err := bounded()
		if err != nil {
			return err
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	err := r.lowly(cmd)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case strings.Contains(err.Error(), "signal: killed"):
		return fmt.Errorf("rebuilding was killed: it took more than %d MB of memory", Memory>>20)
	}
	return errors.New(strings.TrimPrefix(strings.TrimSpace(complaint.String()), "wherry-shim: ") + " (" + err.Error() + ")")
}

// childScore lets the kernel take the child before anything else when memory is short: wherryd's own
// score, which it would inherit, is the last but one.
const childScore = "800"

// lowly runs the child behind everything else that the machine does.
func (r *Rebuilder) lowly(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, cmd.Process.Pid, 15); err != nil {
		r.o.Log.Debug("rebuild: lower its priority", "err", err)
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte(childScore), 0); err != nil {
		r.o.Log.Debug("rebuild: let it be killed first", "err", err)
	}
	return cmd.Wait()
}

// bounded makes the control group, and opens it. A child of a wherryd that died may still be in it.
func bounded() (*os.File, error) {
	err := errors.Join(group.Make(), group.Set("cgroup.kill", "1"), group.Set("memory.max", strconv.Itoa(Memory)), group.Set("memory.oom.group", "1"))
	if err != nil {
		return nil, err
	}
	_ = group.Set("memory.swap.max", "0") // where the kernel has no swap there is no such file
	return group.Open()
}

// tail keeps the end of what is written to it.
type tail struct {
	limit int
	b     []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.b = append(t.b, b...)
	if over := len(t.b) - t.limit; over > 0 {
		t.b = bytes.Clone(t.b[over:])
	}
	return len(b), nil
}

func (t *tail) String() string { return string(t.b) }
