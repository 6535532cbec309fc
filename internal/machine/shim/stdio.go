// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"errors"
	"fmt"
	"os"
	"strconv"
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
	outs  [2]int
}

// keep opens our ends. It never blocks and never fails for want of another end.
func keep(n names) (*pipes, error) {
	p := &pipes{stdin: closed, outs: [2]int{closed, closed}}
	err := hold(&p.stdin, n.Stdin, unix.O_RDWR)
	for i, name := range []string{n.Stdout, n.Stderr} {
		err = errors.Join(err, hold(&p.outs[i], name, unix.O_RDONLY))
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// keepLeft opens what is left of the FIFOs of an earlier instance. One that is gone is missed by nobody.
func keepLeft(n names, stdinClosed bool) *pipes {
	p := &pipes{stdin: closed, outs: [2]int{closed, closed}}
	if !stdinClosed {
		hold(&p.stdin, n.Stdin, unix.O_RDWR)
	}
	hold(&p.outs[0], n.Stdout, unix.O_RDONLY)
	hold(&p.outs[1], n.Stderr, unix.O_RDONLY)
	return p
}

func hold(fd *int, path string, flags int) (err error) {
	if path != "" {
		*fd, err = openFIFO(path, flags|unix.O_NONBLOCK)
	}
	return err
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
	for i, fd := range p.outs {
		if fd != closed {
			unix.Close(fd)
			p.outs[i] = closed
		}
	}
}

// stdio are the three files that a process without a terminal gets. Each is
// an open file description of its own, in blocking mode: nobody else's flags change with it.
type stdio [3]*os.File

// open opens the process's ends. It does not block, because our ends are
// open, and it means the same FIFOs whatever has become of their names. A process
// gets its output for reading too: so the FIFO has a reader as long as the process
// lives, and when this process and wherryd both die it waits for the next reader
// instead of being ended by SIGPIPE.
func (p *pipes) open() (s stdio, err error) {
	for i, fd := range p.fds() {
		flags := unix.O_RDWR
		if i == 0 {
			flags = unix.O_RDONLY
		}
		if s[i], err = reopen(fd, flags); err != nil {
			s.close()
			return s, err
		}
	}
	return s, nil
}

func (p *pipes) fds() [3]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return [3]int{p.stdin, p.outs[0], p.outs[1]}
}

// reopen makes a new description of a FIFO that we hold, or one of /dev/null.
func reopen(fd, flags int) (*os.File, error) {
	path := os.DevNull
	if fd != closed {
		path = "/proc/self/fd/" + strconv.Itoa(fd)
	}
	n, err := retry(func() (int, error) { return unix.Open(path, flags|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, fmt.Errorf("open a process's end of a FIFO: %w", err)
	}
	return os.NewFile(uintptr(n), "stdio"), nil
}

func (s stdio) close() {
	for _, f := range s {
		if f != nil {
			f.Close()
		}
	}
}
