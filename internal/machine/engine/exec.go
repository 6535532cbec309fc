// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/machine/engine/tasks"
)

// ExecOptions is a command to run in a running container.
type ExecOptions struct {
	Start   *wherryv1.ExecStart
	Stdin   io.Reader // nil: none
	Resize  <-chan *wherryv1.TerminalSize
	Signals <-chan string
	Detach  <-chan struct{} // closes when the command shall go on without its caller
}

const (
	execPrefix = "exec-"
	// detachedMark in an exec's directory tells a later life of this process
	// that nobody waits for its streams.
	detachedMark = "detached"
)

// Exec runs a command in a running container and passes on its streams. When
// the caller hangs up, the command is killed unless it is detached.
func (e *Engine) Exec(ctx context.Context, o ExecOptions, send func(*wherryv1.ExecResponse) error) error {
	c, err := e.table.find(o.Start.GetContainer(), false)
	if err != nil {
		return err
	}
	r, err := c.runningOrError()
	if err != nil {
		return err
	}
	if c.record().State.Phase == phasePaused {
		return errorf(KindConflict, "container %s is paused; unpause it first", c.record().Name)
	}
	return e.exec(ctx, c, r, o, send)
}

// execInside runs a plain command for the engine itself.
func (e *Engine) execInside(ctx context.Context, c *container, r *run, args []string, send func(*wherryv1.ExecResponse) error) error {
	return e.exec(ctx, c, r, ExecOptions{Start: &wherryv1.ExecStart{Command: args}}, send)
}

func (e *Engine) exec(ctx context.Context, c *container, r *run, o ExecOptions, send func(*wherryv1.ExecResponse) error) error {
	if err := checkExec(o.Start); err != nil {
		return withKind(KindInvalid, err)
	}
	spec, err := e.execSpec(c, r, o.Start)
	if err != nil {
		return err
	}
	x := &execution{e: e, c: c, run: r, send: send, ctx: ctx}
	if err := x.create(spec, o); err != nil {
		return x.couldNotStart(err)
	}
	if o.Start.Detach {
		e.work.Go(func() { x.reap(e.life) })
		return x.say(&wherryv1.ExecResponse{Message: &wherryv1.ExecResponse_Started{Started: true}})
	}
	return x.attend(o)
}

func checkExec(s *wherryv1.ExecStart) error {
	if len(s.Command) == 0 {
		return errors.New("no command is given")
	}
	return errors.Join(checkArgs("command", s.Command), checkEnv(s.Env), checkText("user", s.User), checkWorkdir(s.Workdir))
}

// execSpec is the container's own process description with another command.
func (e *Engine) execSpec(c *container, r *run, s *wherryv1.ExecStart) (*specs.Process, error) {
	eff := c.record().Effective
	root, err := openRootDir(fmt.Sprintf("/proc/%d/root", r.pid))
	if err != nil {
		return nil, errorf(KindFailedPrecondition, "container %s is ending", c.record().Name)
	}
	defer root.Close()
	who := s.User
	if who == "" {
		who = eff.User
	}
	user, home, err := lookUpUser(root, who, eff.GroupAdd)
	if err != nil {
		return nil, err
	}
	caps, err := capabilities(eff.CapAdd, eff.CapDrop)
	if s.Privileged {
		caps = allCapabilities
	}
	if err != nil {
		return nil, err
	}
	p := ociProcess(eff, bundle{User: user, Home: home}, caps)
	p.Args, p.Terminal = s.Command, s.Tty
	p.Env = mergeEnv(p.Env, s.Env, s.Tty)
	if s.User != "" && !slices.ContainsFunc(eff.Env, func(v string) bool { return strings.HasPrefix(v, "HOME=") }) {
		p.Env = mergeEnv(append(p.Env, "HOME="+home), s.Env, s.Tty)
	}
	if s.Workdir != "" {
		p.Cwd = s.Workdir
	}
	if z := s.Size; s.Tty && z != nil {
		p.ConsoleSize = &specs.Box{Height: uint(z.Rows), Width: uint(z.Columns)}
	}
	return p, nil
}

// execution is one command under way.
type execution struct {
	e    *Engine
	c    *container
	run  *run
	ctx  context.Context // of the caller
	dir  string
	io   *stdio
	proc tasks.Process

	left atomic.Bool // the caller has gone and the command goes on

	mu   sync.Mutex // send is called from the readers of both streams
	send func(*wherryv1.ExecResponse) error
}

func (x *execution) say(m *wherryv1.ExecResponse) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.send(m)
}

// sink passes output on at the caller's pace: a slow caller slows its own
// command. After the caller hung up output is dropped.
func (x *execution) sink(stream wherryv1.Stream, data []byte) {
	if x.left.Load() || x.ctx.Err() != nil {
		return
	}
	data = slices.Clone(data)
	m := &wherryv1.ExecResponse{Message: &wherryv1.ExecResponse_Stdout{Stdout: data}}
	if stream == wherryv1.Stream_STREAM_STDERR {
		m = &wherryv1.ExecResponse{Message: &wherryv1.ExecResponse_Stderr{Stderr: data}}
	}
	_ = x.say(m) // a caller that cannot be told hangs up, which ends ctx
}

func (x *execution) create(spec *specs.Process, o ExecOptions) (err error) {
	id := execPrefix + newID()[:16]
	x.dir = filepath.Join(x.e.runPath(x.c.id), id)
	var names tasks.Stdio
	if o.Start.Detach {
		if err := x.mark(); err != nil {
			return err
		}
		spec.Terminal = false
	} else {
		if x.io, err = makeStdio(x.dir, o.Start.Tty, o.Stdin != nil, passTo(x.sink)); err != nil {
			return err
		}
		names = x.io.names
	}
	ctx := context.WithoutCancel(x.ctx)
	x.proc = tasks.Process{Container: x.c.id, Exec: id}
	if err := x.e.shim.Exec(ctx, x.proc, spec, names); err != nil {
		return err
	}
	if err := x.e.shim.Start(ctx, x.proc); err != nil || x.io == nil {
		return err
	}
	// The shim has opened the FIFOs; the keepers bridged the time until now.
	return x.io.read()
}

// couldNotStart tells the caller as docker does: a message on standard error
// and 126 or 127 when the command is at fault, an error otherwise.
func (x *execution) couldNotStart(err error) error {
	x.clean(context.WithoutCancel(x.ctx))
	err = startError("command", err)
	code := ExitCodeOf(err)
	if code == 125 {
		if x.run.ended() {
			return errorf(KindFailedPrecondition, "container %s has ended", x.c.record().Name)
		}
		return err
	}
	if e := x.say(&wherryv1.ExecResponse{Message: &wherryv1.ExecResponse_Stderr{Stderr: []byte("wherry: " + err.Error() + "\n")}}); e != nil {
		return e
	}
	return x.say(&wherryv1.ExecResponse{Message: &wherryv1.ExecResponse_ExitCode{ExitCode: int32(code)}})
}

func (r *run) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// attend serves the command until it ends or the caller hangs up.
func (x *execution) attend(o ExecOptions) error {
	defer func() {
		if !x.left.Load() {
			x.clean(context.WithoutCancel(x.ctx))
		}
	}()
	ctx, cancel := context.WithCancel(x.ctx)
	defer cancel()
	if err := x.say(&wherryv1.ExecResponse{Message: &wherryv1.ExecResponse_Started{Started: true}}); err != nil {
		return err
	}
	if o.Stdin != nil {
		go x.serveStdin(ctx, o.Stdin)
	}
	tctx := context.WithoutCancel(x.ctx)
	go serveControl(ctx, o.Start.Size, o.Resize, o.Signals,
		func(s *wherryv1.TerminalSize) {
			x.e.logDebug("resize a terminal", x.e.shim.Resize(tctx, x.proc, s.GetColumns(), s.GetRows()))
		},
		func(sig unix.Signal) { x.e.logDebug("signal a command", x.e.shim.Kill(tctx, x.proc, sig)) })
	code, err := x.wait(o.Detach)
	if err != nil || x.left.Load() {
		return err
	}
	x.io.waitOutput(drainTime)
	return x.say(&wherryv1.ExecResponse{Message: &wherryv1.ExecResponse_ExitCode{ExitCode: int32(code)}})
}

func (e *Engine) logDebug(what string, err error) {
	if err != nil {
		e.log.Debug("engine: "+what, "err", err)
	}
}

// mark writes down that nobody waits for the command.
func (x *execution) mark() error {
	if err := os.MkdirAll(x.dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(x.dir, detachedMark), nil, 0o600)
}

// wait returns the command's exit code, or earlier when the caller leaves it running.
func (x *execution) wait(detach <-chan struct{}) (code int, err error) {
	ctx, cancel := context.WithCancel(x.ctx)
	defer cancel()
	type answer struct {
		tasks.End
		error
	}
	ended := make(chan answer, 1)
	go func() {
		end, err := x.e.shim.Wait(ctx, x.proc)
		ended <- answer{end, err}
	}()
	var end answer
	select {
	case end = <-ended:
	case <-detach:
		return 0, x.leave()
	}
	switch {
	case x.ctx.Err() != nil:
		return 0, x.ctx.Err()
	case errors.Is(end.error, context.DeadlineExceeded): // the shim's clock may be a moment ahead of ours
		return 0, end.error
	case end.error != nil:
		return 0, errorf(KindFailedPrecondition, "the container ended before the command")
	}
	return end.Code, nil
}

// leave lets the command go on without its caller. Its output is read on, and
// dropped: it must not wait for a reader that never comes.
func (x *execution) leave() error {
	if err := x.mark(); err != nil {
		return fmt.Errorf("leave the command running: %w", withDiskKind(err))
	}
	x.left.Store(true)
	x.e.work.Go(func() { x.reap(x.e.life) })
	return nil
}

func (x *execution) serveStdin(ctx context.Context, in io.Reader) {
	stop := context.AfterFunc(ctx, x.io.interruptStdin)
	err := x.io.writeStdin(in)
	if stop() && err == nil {
		x.io.closeStdin()
		x.e.logDebug("close standard input", x.e.shim.CloseStdin(context.WithoutCancel(ctx), x.proc))
	}
}

// clean kills the command if it still runs, and removes its traces.
func (x *execution) clean(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if x.proc.Exec != "" {
		x.e.logDebug("remove a command", x.e.shim.End(ctx, x.proc))
	}
	if x.io != nil {
		x.io.close()
	}
	os.RemoveAll(x.dir)
}

// reap waits for a command that nobody listens to.
func (x *execution) reap(ctx context.Context) {
	_, err := x.e.shim.Wait(ctx, x.proc)
	if ctx.Err() != nil {
		return // it goes on; the next life reaps it
	}
	x.e.logDebug("wait for a command", err)
	x.clean(context.WithoutCancel(ctx))
}

// adoptExecs deals with the commands of an earlier life of this process: the
// detached ones are waited for, the callers of the others are gone.
func (e *Engine) adoptExecs(c *container, r *run) {
	dirs, _ := filepath.Glob(filepath.Join(e.runPath(c.id), execPrefix+"*"))
	for _, dir := range dirs {
		x := &execution{e: e, c: c, run: r, ctx: e.life, dir: dir, proc: tasks.Process{Container: c.id, Exec: filepath.Base(dir)}}
		x.left.Store(true)
		if _, err := os.Stat(filepath.Join(dir, detachedMark)); err != nil {
			e.work.Go(func() { x.clean(e.life) })
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "stdout")); err == nil { // it was left, not begun detached
			_, err := os.Stat(filepath.Join(dir, "stderr"))
			x.io, err = reopenStdio(dir, err != nil, false, passTo(x.sink))
			e.logFailure("read the output of a command on", c.id, err)
		}
		e.work.Go(func() { x.reap(e.life) })
	}
}
