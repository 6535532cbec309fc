// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// names are the FIFOs of a process, as the caller made them; empty ones mean /dev/null.
type names struct {
	Terminal bool   `json:"terminal,omitempty"`
	Stdin    string `json:"stdin,omitempty"`
	Stdout   string `json:"stdout,omitempty"`
	Stderr   string `json:"stderr,omitempty"`
}

// pipes are this process's own ends of the FIFOs. They are never read or
// written: they are there so that the pipes and what is in them live on when
// the other ends close. They are plain numbers, unknown to Go's poller, which would
// wake up for every line that a container writes.
type pipes struct {
	mu    sync.Mutex
	stdin int // keeps the reader from seeing an end; closed when negative
	outs  []int
}

// keep opens our ends. It never blocks and never fails for want of another end.
func keep(n names) (*pipes, error) {
	p := &pipes{stdin: closed}
	if n.Stdin != "" {
		fd, err := openFIFO(n.Stdin, unix.O_RDWR|unix.O_NONBLOCK)
		if err != nil {
			return nil, err
		}
		p.stdin = fd
	}
	for _, name := range []string{n.Stdout, n.Stderr} {
		if name == "" {
			continue
		}
		fd, err := openFIFO(name, unix.O_RDONLY|unix.O_NONBLOCK)
		if err != nil {
			p.close()
			return nil, err
		}
		p.outs = append(p.outs, fd)
	}
	return p, nil
}

// closed is no descriptor.
const closed = -1

// openFIFO opens past os.OpenFile, which would make the description
// non-blocking: containers must not get such.
func openFIFO(path string, flags int) (int, error) {
	fd, err := retry(func() (int, error) { return unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0) })
	if err != nil {
		return closed, fmt.Errorf("open %s: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		unix.Close(fd)
		return closed, fmt.Errorf("open %s: it is not a FIFO", path)
	}
	return fd, nil
}

func retry(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EINTR {
			return n, err
		}
	}
}

func (p *pipes) closeStdin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stdin != closed {
		unix.Close(p.stdin)
		p.stdin = closed
	}
}

func (p *pipes) close() {
	p.closeStdin()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, fd := range p.outs {
		unix.Close(fd)
	}
	p.outs = nil
}

// stdio are the three files that a process without a terminal gets. Each is
// an open file description of its own, in blocking mode: nobody else's flags change with it.
type stdio [3]*os.File

// openStdio opens the process's ends. It does not block: keep has opened the others.
func openStdio(n names) (s stdio, err error) {
	flags := [3]int{unix.O_RDONLY, unix.O_WRONLY, unix.O_WRONLY}
	for i, path := range []string{n.Stdin, n.Stdout, n.Stderr} {
		if path == "" {
			s[i], err = os.OpenFile(os.DevNull, flags[i], 0)
		} else {
			s[i], err = openFile(path, flags[i])
		}
		if err != nil {
			s.close()
			return s, err
		}
	}
	return s, nil
}

func (s stdio) close() {
	for _, f := range s {
		if f != nil {
			f.Close()
		}
	}
}

func openFile(path string, flags int) (*os.File, error) {
	fd, err := openFIFO(path, flags)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}
