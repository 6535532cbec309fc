// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/api/wherryv1"
	"wherry.example/wherry/internal/machine/engine/tasks"
)

// stdio is this process's side of the three FIFOs between a process and us. The
// shim keeps their other ends open too until the task is deleted: when we
// die the process goes on until a FIFO is full, and the next life opens the same
// paths and reads on, also when the process has ended meanwhile.
type stdio struct {
	dir     string
	names   tasks.Stdio
	move    mover
	keepers []*os.File // hold the FIFOs until the shim has opened them

	mu     sync.Mutex
	stdin  *os.File
	outs   []*output
	output sync.WaitGroup
}

// mover takes what is in a FIFO to where it belongs. It returns how many bytes
// that were, none at the FIFO's end, or EAGAIN when there are none now.
type mover func(stream wherryv1.Stream, fifo int) (int, error)

// output is a FIFO that is read.
type output struct {
	stream wherryv1.Stream
	f      *os.File
	phase  atomic.Int32
	left   int // bytes that are still taken, when it is finishing
}

// phases of an output
const (
	outputOpen      int32 = iota
	outputFinishing       // what is there now is the last
	outputClosed
)

func fifoNames(dir string, tty, stdin bool) tasks.Stdio {
	c := tasks.Stdio{Terminal: tty, Stdout: filepath.Join(dir, "stdout")}
	if !tty {
		c.Stderr = filepath.Join(dir, "stderr")
	}
	if stdin {
		c.Stdin = filepath.Join(dir, "stdin")
	}
	return c
}

// makeStdio makes fresh FIFOs, held open so that the shim does not wait for us.
func makeStdio(dir string, tty, stdin bool, move mover) (*stdio, error) {
	s := &stdio{dir: dir, names: fifoNames(dir, tty, stdin), move: move}
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for _, p := range []string{s.names.Stdin, s.names.Stdout, s.names.Stderr} {
		if p == "" {
			continue
		}
		if err := unix.Mkfifo(p, 0o600); err != nil {
			s.close()
			return nil, fmt.Errorf("make %s: %w", p, err)
		}
		f, err := os.OpenFile(p, os.O_RDWR|unix.O_NONBLOCK, 0)
		if err != nil {
			s.close()
			return nil, err
		}
		if p == s.names.Stdin {
			s.stdin = f
		} else {
			s.keepers = append(s.keepers, f)
		}
	}
	return s, nil
}

// reopenStdio opens the FIFOs of a task that an earlier life of this process started.
func reopenStdio(dir string, tty, stdin bool, move mover) (*stdio, error) {
	s := &stdio{dir: dir, names: fifoNames(dir, tty, stdin), move: move}
	if s.names.Stdin != "" {
		f, err := os.OpenFile(s.names.Stdin, os.O_RDWR|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil, err
		}
		s.stdin = f
	}
	if err := s.read(); err != nil {
		s.letGo()
		return nil, err
	}
	return s, nil
}

// read starts reading the output. The shim must have opened its ends.
func (s *stdio) read() error {
	defer s.dropKeepers()
	for stream, p := range map[wherryv1.Stream]string{wherryv1.Stream_STREAM_STDOUT: s.names.Stdout, wherryv1.Stream_STREAM_STDERR: s.names.Stderr} {
		if p == "" {
			continue
		}
		f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		o := &output{stream: stream, f: f}
		s.mu.Lock()
		s.outs = append(s.outs, o)
		s.mu.Unlock()
		s.output.Go(func() { s.copyOut(o) })
	}
	return nil
}

func (s *stdio) dropKeepers() {
	for _, f := range s.keepers {
		f.Close()
	}
	s.keepers = nil
}

// readBuffers are shared: with 400 streams open, most of them idle, a buffer
// for each would be most of this process's memory.
var readBuffers = sync.Pool{New: func() any { b := make([]byte, pieceBytes); return &b }}

// passTo moves output through memory to a function. A buffer is taken
// only when there is something to read.
func passTo(sink func(stream wherryv1.Stream, data []byte)) mover {
	return func(stream wherryv1.Stream, fifo int) (int, error) {
		b := readBuffers.Get().(*[]byte)
		defer readBuffers.Put(b)
		n, err := unix.Read(fifo, (*b)[:maxChunk])
		if n > 0 {
			sink(stream, (*b)[:n])
		}
		return max(n, 0), err
	}
}

// copyOut moves data on until the FIFO has no writer any more.
func (s *stdio) copyOut(o *output) {
	defer o.f.Close()
	conn, err := o.f.SyscallConn()
	if err != nil {
		return
	}
	err = conn.Read(func(fd uintptr) bool { return s.moveAll(o, int(fd)) })
	if errors.Is(err, os.ErrDeadlineExceeded) { // see waitOutput
		_ = conn.Control(func(fd uintptr) { s.moveAll(o, int(fd)) })
	}
}

// moveAll empties a FIFO. It is true when nothing will come after that.
func (s *stdio) moveAll(o *output, fd int) (over bool) {
	for finishing := false; ; {
		switch phase := o.phase.Load(); {
		case phase == outputClosed || finishing && o.left <= 0:
			return true
		case phase == outputFinishing && !finishing:
			finishing = true
			o.left, _ = unix.IoctlGetInt(fd, unix.TIOCINQ) // it is a FIFO
			continue
		}
		n, err := s.move(o.stream, fd)
		switch {
		case err == unix.EAGAIN:
			return false
		case err == unix.EINTR:
			continue
		case err != nil || n == 0:
			return true
		}
		o.left -= n
	}
}

// waitOutput waits until all output is read. It does not wait long for a
// process that escaped the container's end with the FIFO in its hands: after the limit
// it takes what is in the FIFO by then, however slow the disk is, and no more.
func (s *stdio) waitOutput(limit time.Duration) {
	done := make(chan struct{})
	go func() { s.output.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(limit):
		s.mu.Lock()
		for _, o := range s.outs {
			o.finish()
		}
		s.mu.Unlock()
		<-done
	}
}

// finish lets the reader of an output end when it has read what is there now.
func (o *output) finish() {
	o.phase.Store(outputFinishing)
	_ = o.f.SetReadDeadline(time.Unix(1, 0)) // it may be closed by now
}

// stop lets the reader of an output end at once.
func (o *output) stop() {
	o.phase.Store(outputClosed)
	o.f.Close()
}

var errNoStdin = errors.New("the container was not made with an open standard input")

// writeStdin copies until r ends. The writer may block as long as the container does not read.
func (s *stdio) writeStdin(r io.Reader) error {
	s.mu.Lock()
	f := s.stdin
	s.mu.Unlock()
	if f == nil {
		return errNoStdin
	}
	_, err := io.Copy(struct{ io.Writer }{f}, r)
	return err
}

func (s *stdio) closeStdin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stdin != nil {
		s.stdin.Close()
		s.stdin = nil
	}
}

// interruptStdin ends a blocked write.
func (s *stdio) interruptStdin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stdin != nil {
		s.stdin.SetWriteDeadline(time.Unix(1, 0))
	}
}

// resumeStdin lets the next writer write.
func (s *stdio) resumeStdin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stdin != nil {
		s.stdin.SetWriteDeadline(time.Time{})
	}
}

// close ends everything and removes the FIFOs.
func (s *stdio) close() {
	s.letGo()
	os.RemoveAll(s.dir)
}

// letGo ends everything here. The FIFOs stay, for another one to read on.
func (s *stdio) letGo() {
	s.closeStdin()
	s.dropKeepers()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.outs {
		o.stop()
	}
}
