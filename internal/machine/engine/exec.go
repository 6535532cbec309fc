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
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"wherry.example/wherry/api/wherryv1"
)

// ExecOptions is a command to run in a running container.
type ExecOptions struct {
	Start   *wherryv1.ExecStart
	Stdin   io.Reader // nil: none
	Resize  <-chan *wherryv1.TerminalSize
	Signals <-chan string
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
	proc client.Process

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
	if x.ctx.Err() != nil {
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
	config := cio.Config{Terminal: o.Start.Tty}
	if o.Start.Detach {
		if err := os.MkdirAll(x.dir, 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(x.dir, detachedMark), nil, 0o600); err != nil {
			return err
		}
		spec.Terminal, config.Terminal = false, false
	} else {
		if x.io, err = makeStdio(x.dir, o.Start.Tty, o.Stdin != nil, x.sink); err != nil {
			return err
		}
		config = x.io.config
	}
	ctx := x.c.taskContext(context.WithoutCancel(x.ctx))
	x.proc, err = x.run.task.Exec(ctx, id, spec, func(string) (cio.IO, error) { return passiveIO{config}, nil })
	if err != nil {
		return err
	}
	if x.io != nil {
		// The shim opens the FIFOs while it starts the command, so the reading
		// ends are opened by then and the keepers bridge the time until.
		err = x.proc.Start(ctx)
		if err == nil {
			err = x.io.read()
		}
		return err
	}
	return x.proc.Start(ctx)
}

// couldNotStart tells the caller as docker does: a message on standard error
// and 126 or 127 when the command is at fault, an error otherwise.
func (x *execution) couldNotStart(err error) error {
	x.clean(context.WithoutCancel(x.ctx))
	err = startError(err)
	code := ExitCodeOf(err)
	if code == 125 {
		if x.run.ended() {
			return errorf(KindFailedPrecondition, "container %s has ended", x.c.record().Name)
		}
		return err
	}
	if e := x.say(&wherryv1.ExecResponse{Message: &wherryv1.ExecResponse_Stderr{Stderr: []byte(err.Error() + "\n")}}); e != nil {
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
	defer x.clean(context.WithoutCancel(x.ctx))
	ctx, cancel := context.WithCancel(x.ctx)
	defer cancel()
	if err := x.say(&wherryv1.ExecResponse{Message: &wherryv1.ExecResponse_Started{Started: true}}); err != nil {
		return err
	}
	if o.Stdin != nil {
		go x.serveStdin(ctx, o.Stdin)
	}
	tctx := x.c.taskContext(context.WithoutCancel(x.ctx))
	go serveControl(ctx, o.Start.Size, o.Resize, o.Signals,
		func(s *wherryv1.TerminalSize) {
			x.e.logDebug("resize a terminal", x.proc.Resize(tctx, s.GetColumns(), s.GetRows()))
		},
		func(sig unix.Signal) { x.e.logDebug("signal a command", x.proc.Kill(tctx, sig)) })
	code, err := x.wait(tctx)
	if err != nil {
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

func (x *execution) wait(tctx context.Context) (code uint32, err error) {
	ch, err := x.proc.Wait(tctx)
	if err != nil {
		return 0, err
	}
	select {
	case s := <-ch:
		if code, _, err = s.Result(); err != nil {
			return 0, errorf(KindFailedPrecondition, "the container ended before the command")
		}
		return code, nil
	case <-x.ctx.Done():
		return 0, x.ctx.Err()
	}
}

func (x *execution) serveStdin(ctx context.Context, in io.Reader) {
	stop := context.AfterFunc(ctx, x.io.interruptStdin)
	err := x.io.writeStdin(in)
	if stop() && err == nil {
		x.io.closeStdin()
		x.e.logDebug("close standard input", x.proc.CloseIO(x.c.taskContext(context.WithoutCancel(ctx)), client.WithStdinCloser))
	}
}

// clean kills the command if it still runs, and removes its traces.
func (x *execution) clean(ctx context.Context) {
	ctx, cancel := context.WithTimeout(x.c.taskContext(ctx), 30*time.Second)
	defer cancel()
	if x.proc != nil {
		_, err := x.proc.Delete(ctx, client.WithProcessKill)
		x.e.logDebug("remove a command", ignoreNotFound(err))
	}
	if x.io != nil {
		x.io.close()
	}
	os.RemoveAll(x.dir)
}

// reap waits for a command that nobody listens to.
func (x *execution) reap(ctx context.Context) {
	ch, err := x.proc.Wait(x.c.taskContext(ctx))
	if err == nil {
		select {
		case <-ch:
		case <-x.run.done:
		case <-ctx.Done():
			return // it goes on; the next life reaps it
		}
	}
	x.clean(context.WithoutCancel(ctx))
}

// adoptExecs deals with the commands of an earlier life of this process: the
// detached ones are waited for, the callers of the others are gone.
func (e *Engine) adoptExecs(c *container, r *run) {
	dirs, _ := filepath.Glob(filepath.Join(e.runPath(c.id), execPrefix+"*"))
	for _, dir := range dirs {
		x := &execution{e: e, c: c, run: r, ctx: e.life, dir: dir}
		proc, err := r.task.LoadProcess(c.taskContext(e.life), filepath.Base(dir), nil)
		if err != nil {
			os.RemoveAll(dir)
			continue
		}
		x.proc = proc
		if _, err := os.Stat(filepath.Join(dir, detachedMark)); err == nil {
			e.work.Go(func() { x.reap(e.life) })
		} else {
			e.work.Go(func() { x.clean(e.life) })
		}
	}
}
