// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package ctl asks a machine through its API and prints for people, or with
// -o json for programs: one function for each verb of the command line.
//
// It owns the user's terminal while a session is attached and gives it back in
// every case. It connects once, at the first question, through the function
// that it was given. What people read on the way (progress, warnings) goes to
// the error stream; the output stream holds results only, and nothing is drawn
// where no terminal is. Errors are plain words; an ExitError carries the exit
// code that docker would end with.
package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"connectrpc.com/connect"
	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/client"
	"wherry.example/wherry/internal/host/ctl/terminal"
	"wherry.example/wherry/internal/host/known"
)

// CLI is one run of the command line.
type CLI struct {
	In       io.Reader
	Out, Err io.Writer
	// JSON prints results as JSON.
	JSON bool
	// Connect finds the machine and logs in; it is called once at most.
	Connect func(context.Context) (*client.Client, known.Machine, error)
	// Signals hands over signals to attached containers; nil: none come.
	Signals *Signals
	// Publish makes ports of a machine reachable where the machine alone cannot;
	// done twice it is done once. Nil: the machine's own addresses are it.
	Publish func(ctx context.Context, m known.Machine, ports []*wherryv1.PortMapping) error
	// Unpublish takes back what Publish did. Nil: there is nothing to take back.
	Unpublish func(ctx context.Context, m known.Machine, ports []*wherryv1.PortMapping) error
	// Place tells where a published port is reached; nil: at the machine.
	Place func(m known.Machine, p *wherryv1.PortMapping) string
	// BuildLocal writes an image archive of a folder with a Go program, for a
	// machine's architecture, and returns the image's name.
	BuildLocal func(ctx context.Context, dir, architecture string, archive io.Writer) (name string, err error)
	// Now is the time; nil: the clock's.
	Now func() time.Time

	once    sync.Once
	client  *client.Client
	machine known.Machine
	err     error
}

// API returns the connection to the machine.
func (c *CLI) API(ctx context.Context) (*client.Client, error) {
	c.once.Do(func() { c.client, c.machine, c.err = c.Connect(ctx) })
	return c.client, c.err
}

// Close ends the connection.
func (c *CLI) Close() {
	if c.client != nil {
		c.client.Close()
	}
}

func (c *CLI) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// notef writes a line for people.
func (c *CLI) notef(format string, args ...any) {
	fmt.Fprintf(c.Err, format+"\n", args...)
}

// live says whether progress may be drawn.
func (c *CLI) live() bool { return terminal.Is(c.Err) }

// ExitError ends the program with a code. Err is nil when there is nothing more to say.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

func (e *ExitError) Unwrap() error { return e.Err }

// Docker's exit codes for what is not the container's own.
const (
	exitFailed      = 125
	exitInterrupted = 130
	exitTerminated  = 143
)

// ExitCode is what the program ends with after err.
func ExitCode(err error) int {
	var exit *ExitError
	var signal *SignalError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.Code
	case errors.As(err, &signal):
		return signal.ExitCode()
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	return 1
}

// exitWith gives err a code, unless the machine gave it one.
func exitWith(code int, err error) error {
	if err == nil {
		return nil
	}
	var exit *ExitError
	var signal *SignalError
	if errors.As(err, &exit) || errors.As(err, &signal) {
		return err
	}
	var api *APIError
	if errors.As(err, &api) && api.Exit != 0 {
		code = api.Exit
	}
	return &ExitError{code, err}
}

// unary makes one call.
func unary[Req, Res any](ctx context.Context, call func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error), m *Req) (*Res, error) {
	res, err := call(ctx, connect.NewRequest(m))
	if err != nil {
		return nil, apiError(ctx, err)
	}
	return res.Msg, nil
}

// serverStream makes one call and hands each message to f.
func serverStream[Req, Res any](ctx context.Context, call func(context.Context, *connect.Request[Req]) (*connect.ServerStreamForClient[Res], error), m *Req, f func(*Res) error) error {
	stream, err := call(ctx, connect.NewRequest(m))
	if err != nil {
		return apiError(ctx, err)
	}
	defer stream.Close()
	for stream.Receive() {
		if err := f(stream.Msg()); err != nil {
			return err
		}
	}
	return apiError(ctx, stream.Err())
}
