// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"connectrpc.com/connect"
	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/host/ctl/terminal"
)

// output is one message of a session, whichever method it came from.
type output interface {
	GetStdout() []byte
	GetStderr() []byte
	GetExitCode() int32
	GetStarted() bool
}

// wire is an attach or exec stream as a session needs it. send may be called
// from several goroutines.
type wire struct {
	stdin   func([]byte) error
	close   func() error
	resize  func(*wherryv1.TerminalSize) error
	signal  func(string) error
	detach  func() error                 // tells the machine that the user left; nil: it need not know
	receive func() (output, bool, error) // true: it is the exit code
}

func attachWire(s *connect.BidiStreamForClient[wherryv1.AttachRequest, wherryv1.AttachResponse]) wire {
	var mu sync.Mutex
	send := func(m *wherryv1.AttachRequest) error {
		mu.Lock()
		defer mu.Unlock()
		return s.Send(m)
	}
	return wire{
		stdin: func(p []byte) error {
			return send(&wherryv1.AttachRequest{Message: &wherryv1.AttachRequest_Stdin{Stdin: p}})
		},
		close: func() error {
			return send(&wherryv1.AttachRequest{Message: &wherryv1.AttachRequest_CloseStdin{CloseStdin: true}})
		},
		resize: func(size *wherryv1.TerminalSize) error {
			return send(&wherryv1.AttachRequest{Message: &wherryv1.AttachRequest_Resize{Resize: size}})
		},
		signal: func(name string) error {
			return send(&wherryv1.AttachRequest{Message: &wherryv1.AttachRequest_Signal{Signal: name}})
		},
		receive: func() (output, bool, error) {
			m, err := s.Receive()
			if err != nil {
				return nil, false, err
			}
			_, exit := m.Message.(*wherryv1.AttachResponse_ExitCode)
			return m, exit, nil
		},
	}
}

func execWire(s *connect.BidiStreamForClient[wherryv1.ExecRequest, wherryv1.ExecResponse]) wire {
	var mu sync.Mutex
	send := func(m *wherryv1.ExecRequest) error {
		mu.Lock()
		defer mu.Unlock()
		return s.Send(m)
	}
	return wire{
		stdin: func(p []byte) error {
			return send(&wherryv1.ExecRequest{Message: &wherryv1.ExecRequest_Stdin{Stdin: p}})
		},
		close: func() error {
			return send(&wherryv1.ExecRequest{Message: &wherryv1.ExecRequest_CloseStdin{CloseStdin: true}})
		},
		resize: func(size *wherryv1.TerminalSize) error {
			return send(&wherryv1.ExecRequest{Message: &wherryv1.ExecRequest_Resize{Resize: size}})
		},
		signal: func(name string) error {
			return send(&wherryv1.ExecRequest{Message: &wherryv1.ExecRequest_Signal{Signal: name}})
		},
		detach: func() error {
			return send(&wherryv1.ExecRequest{Message: &wherryv1.ExecRequest_Detach{Detach: true}})
		},
		receive: func() (output, bool, error) {
			m, err := s.Receive()
			if err != nil {
				return nil, false, err
			}
			_, exit := m.Message.(*wherryv1.ExecResponse_ExitCode)
			return m, exit, nil
		},
	}
}

// session is how a user takes part in a stream.
type session struct {
	tty      bool // it has a terminal inside
	stdin    bool
	sigProxy bool
	detach   []byte
	started  func() // called once when it runs; may be nil
}

// stdinChunk is the size of the messages that input is cut into.
const stdinChunk = 32 << 10

// attached says whether the session takes the user's terminal over.
func (c *CLI) takesTerminal(s session) bool { return s.tty && s.stdin && terminal.Is(c.In) }

// interact joins the user's streams with a session's until it ends. It returns
// the exit code, or ErrDetached.
func (c *CLI) interact(ctx context.Context, w wire, s session) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if c.takesTerminal(s) {
		restore, err := terminal.Raw(c.In)
		if err != nil {
			return exitFailed, err
		}
		defer restore()
	}
	if s.tty && terminal.Is(c.Out) {
		terminal.Resizes(ctx, c.Out, func(size *wherryv1.TerminalSize) { _ = w.resize(size) }) // a broken stream shows when it is read
	}
	if s.sigProxy && !c.takesTerminal(s) {
		defer c.Signals.Divert(func(name string) { _ = w.signal(name) })()
	}
	detached := make(chan struct{})
	if s.stdin {
		go c.sendInput(w, s, detached)
	}
	ended := make(chan struct {
		code int
		err  error
	}, 1)
	go func() {
		code, err := c.receiveOutput(ctx, w, s)
		ended <- struct {
			code int
			err  error
		}{code, err}
	}()
	select {
	case r := <-ended:
		return r.code, r.err
	case <-detached:
		if w.detach != nil {
			if err := w.detach(); err != nil {
				return exitFailed, err
			}
			<-ended // the machine has understood
		}
		return 0, terminal.ErrDetached
	case <-ctx.Done():
		return exitFailed, context.Cause(ctx)
	}
}

// sendInput sends the user's input until it ends. It may outlive the session,
// waiting for input that nobody needs any more.
func (c *CLI) sendInput(w wire, s session, detached chan<- struct{}) {
	in := c.In
	if s.tty {
		in = terminal.DetachReader(in, s.detach)
	}
	for {
		buf := make([]byte, stdinChunk) // the message may be on its way when the next one is read
		n, err := in.Read(buf)
		if n > 0 && w.stdin(buf[:n]) != nil {
			return // the stream ended: who receives knows why
		}
		if errors.Is(err, terminal.ErrDetached) {
			close(detached)
			return
		}
		if err != nil {
			_ = w.close()
			return
		}
	}
}

func (c *CLI) receiveOutput(ctx context.Context, w wire, s session) (int, error) {
	started := s.started
	for {
		m, exit, err := w.receive()
		if errors.Is(err, io.EOF) {
			return exitFailed, errors.New("the session ended without an exit code: was the container removed, or the machine restarted?")
		}
		if err != nil {
			return exitFailed, apiError(ctx, err)
		}
		if exit {
			return int(m.GetExitCode()), nil
		}
		if m.GetStarted() && started != nil {
			started()
			started = nil
		}
		if err := write(c.Out, m.GetStdout()); err != nil {
			return exitFailed, err
		}
		if err := write(c.Err, m.GetStderr()); err != nil {
			return exitFailed, err
		}
	}
}

func write(w io.Writer, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if _, err := w.Write(p); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// size is the terminal's, for a session that has one.
func (c *CLI) size(tty bool) *wherryv1.TerminalSize {
	if !tty {
		return nil
	}
	return terminal.Size(c.Out)
}

// end turns the end of a session into the program's.
func (c *CLI) end(code int, err error) error {
	switch {
	case errors.Is(err, terminal.ErrDetached):
		c.notef("\r\nread escape sequence: detached")
		return nil
	case err != nil:
		return exitWith(exitFailed, err)
	case code != 0:
		return &ExitError{Code: code}
	}
	return nil
}

var errNotTerminal = errors.New("the input is not a terminal: leave -t out")

// needTerminal refuses -it where no terminal is, as docker does.
func (c *CLI) needTerminal(tty, stdin bool) error {
	if tty && stdin && !terminal.Is(c.In) {
		return errNotTerminal
	}
	return nil
}
