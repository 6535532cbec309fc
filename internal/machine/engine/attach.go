// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/api/wherryv1"
)

// AttachOptions says how to join a container's streams.
type AttachOptions struct {
	Ref    string
	Stdin  io.Reader // nil: none. Its end closes the container's standard input.
	Logs   bool      // what was written so far, first
	Start  bool      // start the container once the streams are joined
	Size   *wherryv1.TerminalSize
	Resize <-chan *wherryv1.TerminalSize
	// Signals are passed on to the container's first process.
	Signals <-chan string
}

// Attach joins the streams of a running container until its run ends or the
// caller hangs up; the container goes on in that case. Output is read from the
// log, so a slow caller delays nobody; one that is slower than the log rotates
// misses what was rotated away, and what a full disk did not take is told at
// the end.
func (e *Engine) Attach(ctx context.Context, o AttachOptions, send func(*wherryv1.AttachResponse) error) error {
	c, err := e.table.find(o.Ref, false)
	if err != nil {
		return err
	}
	if o.Stdin != nil && !c.record().Effective.Stdin {
		return errorf(KindFailedPrecondition, "container %s was made without an open standard input", c.record().Name)
	}
	defer c.read()()
	from, _ := c.logs.end()
	lost := c.logs.lostBytes()
	if o.Logs {
		from = c.logs.start()
	}
	if o.Start {
		if c.running() != nil {
			return errorf(KindFailedPrecondition, "container %s is running already", c.record().Name)
		}
		if err := e.start(ctx, c, true); err != nil {
			return err
		}
	}
	r, ended, err := c.lastRun(o.Start)
	if err != nil {
		return err
	}
	if o.Start {
		if err := send(&wherryv1.AttachResponse{Message: &wherryv1.AttachResponse_Started{Started: true}}); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !ended {
		e.serveInput(ctx, c, r, o)
	}
	if err := e.attachOutput(ctx, c, r, from, send); err != nil {
		return err
	}
	if n := c.logs.lostBytes() - lost; n > 0 {
		note := fmt.Appendf(nil, "wherry: %d bytes of output are lost: they could not be written to the machine's state (is it full?)\n", n)
		if err := send(&wherryv1.AttachResponse{Message: &wherryv1.AttachResponse_Stderr{Stderr: note}}); err != nil {
			return err
		}
	}
	return send(&wherryv1.AttachResponse{Message: &wherryv1.AttachResponse_ExitCode{ExitCode: int32(r.code)}})
}

// lastRun is the running run; just after a start also one that has ended already.
func (c *container) lastRun(justStarted bool) (r *run, ended bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.run != nil:
		return c.run, false, nil
	case justStarted && c.last != nil:
		return c.last, true, nil
	}
	return nil, false, errorf(KindFailedPrecondition, "container %s is not running", c.rec.Name)
}

func (e *Engine) attachOutput(ctx context.Context, c *container, r *run, from position, send func(*wherryv1.AttachResponse) error) error {
	reader := c.logs.reader(from)
	defer reader.close()
	over := func() (bool, <-chan struct{}) {
		select {
		case <-r.done:
			return true, r.done
		default:
			return false, r.done
		}
	}
	return reader.follow(ctx, over, func(f frame) error {
		data := append([]byte(nil), f.data...)
		if f.stream == wherryv1.Stream_STREAM_STDERR {
			return send(&wherryv1.AttachResponse{Message: &wherryv1.AttachResponse_Stderr{Stderr: data}})
		}
		return send(&wherryv1.AttachResponse{Message: &wherryv1.AttachResponse_Stdout{Stdout: data}})
	}, nil)
}

// serveInput passes on what the caller sends, until ctx ends.
func (e *Engine) serveInput(ctx context.Context, c *container, r *run, o AttachOptions) {
	if o.Stdin != nil {
		go e.serveStdin(ctx, c, r, o.Stdin)
	}
	resize := func(s *wherryv1.TerminalSize) {
		if err := e.shim.Resize(ctx, c.task(), s.GetColumns(), s.GetRows()); err != nil && ctx.Err() == nil {
			e.log.Debug("engine: resize a terminal", "id", c.id, "err", err)
		}
	}
	go serveControl(ctx, o.Size, o.Resize, o.Signals, resize, func(sig unix.Signal) { e.logFailure("signal", c.id, r.signal(sig)) })
}

func (e *Engine) serveStdin(ctx context.Context, c *container, r *run, in io.Reader) {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		r.stdio.interruptStdin()
	})
	err := r.stdio.writeStdin(in)
	if !stop() {
		<-interrupted // else the deadline could be set after it was taken back
		r.stdio.resumeStdin()
		return // the caller hung up: the container's input stays open for the next
	}
	if err == nil {
		r.stdio.closeStdin()
		e.logDebug("close standard input", e.shim.CloseStdin(e.life, c.task()))
	}
}

// serveControl applies sizes and signals until ctx ends.
func serveControl(ctx context.Context, first *wherryv1.TerminalSize, sizes <-chan *wherryv1.TerminalSize, signals <-chan string,
	resize func(*wherryv1.TerminalSize), kill func(unix.Signal)) {
	if first != nil {
		resize(first)
	}
	for sizes != nil || signals != nil {
		select {
		case s, ok := <-sizes:
			if !ok {
				sizes = nil
			} else if s.GetColumns() <= 1<<15 && s.GetRows() <= 1<<15 {
				resize(s)
			}
		case s, ok := <-signals:
			if !ok {
				signals = nil
			} else if sig, err := parseSignal(s); err == nil {
				kill(sig)
			}
		case <-ctx.Done():
			return
		}
	}
}
