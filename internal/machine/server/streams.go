// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
	"wherry.example/wherry/api/wherryv1"
)

// serial lets several goroutines send on one stream.
func serial[T any](send func(*T) error) func(*T) error {
	var mu sync.Mutex
	return func(m *T) error {
		mu.Lock()
		defer mu.Unlock()
		return send(m)
	}
}

// endError turns the end of a client's stream into io.EOF.
func endError(err error) error {
	if ended(err) {
		return io.EOF
	}
	return err
}

// firstError is what a stream without a first message ends with.
func firstError(err error) error {
	if ended(err) {
		return invalid("the stream ended before its first message")
	}
	return err
}

// chunks reads a stream of byte messages as one io.Reader.
type chunks struct {
	next func() ([]byte, error)
	rest []byte
	err  error
}

func newChunks(next func() ([]byte, error)) io.Reader { return &chunks{next: next} }

func (c *chunks) Read(p []byte) (int, error) {
	for len(c.rest) == 0 && c.err == nil {
		c.rest, c.err = c.next()
	}
	if len(c.rest) == 0 {
		return 0, c.err
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// chunkBytes is the size of the messages that tar streams are cut into.
const chunkBytes = 256 << 10

type sendWriter func([]byte) error

func (s sendWriter) Write(p []byte) (int, error) {
	for at := 0; at < len(p); at += chunkBytes {
		if err := s(p[at:min(at+chunkBytes, len(p))]); err != nil {
			return at, err
		}
	}
	return len(p), nil
}

func newChunkWriter(send func([]byte) error) *bufio.Writer {
	return bufio.NewWriterSize(sendWriter(send), chunkBytes)
}

// input is the caller's side of an attach or exec: what its messages carry,
// taken apart into a reader and two channels.
type input struct {
	stdin   *io.PipeReader
	to      *io.PipeWriter
	resize  chan *wherryv1.TerminalSize
	signals chan string
	detach  chan struct{} // closes when the caller leaves for good
	done    chan struct{}
}

// part is one message of a caller; the zero part is of no interest.
type part struct {
	stdin  []byte
	resize *wherryv1.TerminalSize
	signal string
	close  bool
	detach bool
}

// maxSignals is how many signals may wait for the engine; more are dropped.
const maxSignals = 16

// pump starts reading the caller's messages with next until it returns an
// error. stop ends that and waits for it.
func pump(ctx context.Context, next func() (part, error)) (in *input, stop func()) {
	in = &input{
		resize:  make(chan *wherryv1.TerminalSize, 1),
		signals: make(chan string, maxSignals),
		detach:  make(chan struct{}),
		done:    make(chan struct{}),
	}
	in.stdin, in.to = io.Pipe()
	go in.run(next)
	return in, func() {
		in.stdin.Close()
		if rc, ok := ctx.Value(deadlineKey{}).(*http.ResponseController); ok && rc.SetReadDeadline(time.Unix(1, 0)) == nil {
			<-in.done // without a deadline next returns once the handler did
		}
	}
}

func (in *input) run(next func() (part, error)) {
	defer close(in.done)
	for {
		p, err := next()
		if err != nil {
			in.to.CloseWithError(endError(err))
			return
		}
		in.take(p)
		if p.detach {
			close(in.detach)
			return // nothing after it is heard
		}
	}
}

func (in *input) take(p part) {
	switch {
	case len(p.stdin) > 0:
		_, _ = in.to.Write(p.stdin) // fails when nobody reads any more: then it is of no interest
	case p.close:
		in.to.Close()
	case p.resize != nil:
		select { // only the newest size counts
		case <-in.resize:
		default:
		}
		in.resize <- p.resize
	case p.signal != "":
		select {
		case in.signals <- p.signal:
		default:
		}
	}
}

var errStartTwice = errors.New("the stream was started already")

// laterMessage is what the messages of attach and exec after the first have in common.
type laterMessage interface {
	GetStdin() []byte
	GetResize() *wherryv1.TerminalSize
	GetSignal() string
	GetCloseStdin() bool
}

// later returns what a message after the first says. It must not start again.
func later(m laterMessage, starts bool, err error) (part, error) {
	if err != nil {
		return part{}, err
	}
	if starts {
		return part{}, errStartTwice
	}
	return part{stdin: m.GetStdin(), resize: m.GetResize(), signal: m.GetSignal(), close: m.GetCloseStdin()}, nil
}

func (c *containers) Attach(ctx context.Context, stream *connect.BidiStream[wherryv1.AttachRequest, wherryv1.AttachResponse]) error {
	message, err := stream.Receive()
	if err != nil {
		return firstError(err)
	}
	start := message.GetStart()
	if start == nil || start.Container == "" {
		return invalid("the first message must name the container")
	}
	in, stop := pump(ctx, func() (part, error) {
		m, err := stream.Receive()
		return later(m, m.GetStart() != nil, err)
	})
	defer stop()
	o := AttachOptions{Ref: start.Container, Logs: start.Logs, Start: start.Start, Size: start.Size, Resize: in.resize, Signals: in.signals}
	if start.Stdin {
		o.Stdin = in.stdin
	}
	return c.Containers.Attach(ctx, o, serial(stream.Send))
}

func (c *containers) Exec(ctx context.Context, stream *connect.BidiStream[wherryv1.ExecRequest, wherryv1.ExecResponse]) error {
	message, err := stream.Receive()
	if err != nil {
		return firstError(err)
	}
	start := message.GetStart()
	if start == nil || start.Container == "" || len(start.Command) == 0 {
		return invalid("the first message must name the container and the command")
	}
	in, stop := pump(ctx, func() (part, error) {
		m, err := stream.Receive()
		p, err := later(m, m.GetStart() != nil, err)
		p.detach = m.GetDetach()
		return p, err
	})
	defer stop()
	o := ExecOptions{Start: start, Resize: in.resize, Signals: in.signals, Detach: in.detach}
	if start.Stdin {
		o.Stdin = in.stdin
	}
	return c.Containers.Exec(ctx, o, serial(stream.Send))
}
