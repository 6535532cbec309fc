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
	sink    func(stream wherryv1.Stream, data []byte)
	keepers []*os.File // hold the FIFOs until the shim has opened them

	mu     sync.Mutex
	stdin  *os.File
	outs   []*os.File
	output sync.WaitGroup
}

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
func makeStdio(dir string, tty, stdin bool, sink func(wherryv1.Stream, []byte)) (*stdio, error) {
	s := &stdio{dir: dir, names: fifoNames(dir, tty, stdin), sink: sink}
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
func reopenStdio(dir string, tty, stdin bool, sink func(wherryv1.Stream, []byte)) (*stdio, error) {
	s := &stdio{dir: dir, names: fifoNames(dir, tty, stdin), sink: sink}
	if s.names.Stdin != "" {
		f, err := os.OpenFile(s.names.Stdin, os.O_RDWR|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil, err
		}
		s.stdin = f
	}
	return s, s.read()
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
		s.mu.Lock()
		s.outs = append(s.outs, f)
		s.mu.Unlock()
		s.output.Go(func() { s.copyOut(stream, f) })
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
var readBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// copyOut passes data on until the shim closes the FIFO. A buffer is taken
// only when there is something to read.
func (s *stdio) copyOut(stream wherryv1.Stream, f *os.File) {
	defer f.Close()
	conn, err := f.SyscallConn()
	if err != nil {
		return
	}
	for {
		ended := false
		err := conn.Read(func(fd uintptr) bool {
			b := readBuffers.Get().(*[]byte)
			defer readBuffers.Put(b)
			n, err := unix.Read(int(fd), *b)
			switch {
			case err == unix.EAGAIN:
				return false
			case err == unix.EINTR:
				return true
			case n > 0:
				s.sink(stream, (*b)[:n])
			default:
				ended = true
			}
			return true
		})
		if err != nil || ended {
			return
		}
	}
}

// waitOutput waits until all output is read, but not for a process that
// escaped the container's end with the FIFO in its hands.
func (s *stdio) waitOutput(limit time.Duration) {
	done := make(chan struct{})
	go func() { s.output.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(limit):
		s.mu.Lock()
		for _, f := range s.outs {
			f.Close()
		}
		s.mu.Unlock()
		<-done
	}
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
	s.closeStdin()
	s.dropKeepers()
	s.mu.Lock()
	for _, f := range s.outs {
		f.Close()
	}
	s.mu.Unlock()
	os.RemoveAll(s.dir)
}
