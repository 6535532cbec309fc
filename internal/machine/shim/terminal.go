// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is our side of a pseudo terminal. It is lost with this process:
// the kernel hangs it up, and what runs on it gets SIGHUP.
type terminal struct {
	master  *os.File
	in, out *os.File // the FIFOs
	copied  chan struct{}
}

// consoleSocket is where a container's first half hands out the master.
func consoleSocket() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket for the terminal: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "console"), os.NewFile(uintptr(fds[1]), "console"), nil
}

// receiveMaster takes the master out of the socket, where it is since before
// the process was said to be ready.
func receiveMaster(socket *os.File) (*os.File, error) {
	name, rights := make([]byte, 256), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(socket.Fd()), name, rights, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		return nil, fmt.Errorf("receive the terminal: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		return nil, errors.New("receive the terminal: the message holds none")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.New("receive the terminal: the message holds none")
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "terminal"), nil
}

// openTerminal connects a master with the FIFOs that p holds.
func openTerminal(master *os.File, p *pipes) (_ *terminal, err error) {
	t := &terminal{master: master, copied: make(chan struct{})}
	fds := p.fds()
	if t.out, err = reopen(fds[1], unix.O_WRONLY|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	if fds[0] != closed {
		if t.in, err = reopen(fds[0], unix.O_RDONLY|unix.O_NONBLOCK); err != nil {
			t.out.Close()
			return nil, err
		}
		go pump(t.master, t.in)
	}
	go func() {
		defer close(t.copied)
		pump(t.out, t.master)
	}()
	return t, nil
}

// buffers are shared: a terminal has one only while it has something to say.
var buffers = sync.Pool{New: func() any { return new([16 << 10]byte) }}

// pump copies until src ends (a master ends when nobody has the terminal
// open any more) or one of both is closed.
func pump(dst, src *os.File) {
	c, err := src.SyscallConn()
	if err != nil {
		return
	}
	for {
		var b *[16 << 10]byte
		n := 0
		err := c.Read(func(fd uintptr) bool {
			b = buffers.Get().(*[16 << 10]byte)
			var err error
			n, err = retry(func() (int, error) { return unix.Read(int(fd), b[:]) })
			if err == unix.EAGAIN {
				buffers.Put(b)
				return false
			}
			return true
		})
		if err != nil || n <= 0 {
			return
		}
		_, err = dst.Write(b[:n])
		buffers.Put(b)
		if err != nil {
			return
		}
	}
}

func (t *terminal) resize(columns, rows uint32) error {
	return control(t.master, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(columns), Row: uint16(rows)})
	})
}

// control uses a descriptor without taking it out of Go's poller.
func control(f *os.File, use func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	if err := c.Control(func(fd uintptr) { failure = use(int(fd)) }); err != nil {
		return err
	}
	return failure
}

// drainTime bounds how long the word of an end waits for what the terminal
// still holds: its reader may be away, or a process may have kept it open.
const drainTime = time.Second

func (t *task) drain() {
	t.mu.Lock()
	tty := t.tty
	t.mu.Unlock()
	if tty == nil {
		return
	}
	select {
	case <-tty.copied:
	case <-time.After(drainTime):
	}
}

func (t *terminal) close() {
	t.master.Close()
	t.out.Close()
	if t.in != nil {
		t.in.Close()
	}
}
