// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/linux/cgroup"
	"wherry.example/wherry/internal/linux/process"
)

// reapedFile is the record of orphans. Each line is
// "PID STARTTIME WAITSTATUS UNIXNANO": whose end it was (start time in clock
// ticks since boot, as in /proc/PID/stat), its raw wait status, and when.
const reapedFile = "/run/wherry/reaped"

// maxRecords is how many of the newest lines are kept at least. Twice as many are written
// before the file is cut, so that cutting costs nothing per line.
const maxRecords = 4096

// reaper is the one place that starts and waits for processes: two that wait
// would steal each other's exits.
type reaper struct {
	mu       sync.Mutex
	children map[int]*child

	file    string
	records int
}

// answer returns unless the reaper is stuck.
func (r *reaper) answer() {
	r.mu.Lock()
	defer r.mu.Unlock()
}

// child is a process that this program started, not an orphan it was given.
type child struct {
	pid  int
	exit process.Exit // set before done is closed
	done chan struct{}
}

func newReaper(file string) *reaper {
	return &reaper{children: map[int]*child{}, file: file}
}

func (c *child) Pid() int              { return c.pid }
func (c *child) Done() <-chan struct{} { return c.done }

// Signal signals this process alone. One that was reaped is not signalled: its
// number may be another's already.
func (c *child) Signal(s unix.Signal) error {
	select {
	case <-c.done:
		return unix.ESRCH
	default:
		return unix.Kill(c.pid, s)
	}
}

// start starts a program in a session and a control group of its own. The
// lock is held until the child is known: it may end before start returns.
func (r *reaper) start(path string, argv, env []string, group cgroup.Group) (*child, error) {
	in, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	out, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		out = in // a machine without any console
	} else {
		defer out.Close()
	}
	sys := &syscall.SysProcAttr{Setsid: true}
	// Without control groups wherryd runs all the same, and can say what is wrong.
	if dir, err := group.Open(); err == nil {
		defer dir.Close()
		sys.UseCgroupFD, sys.CgroupFD = true, int(dir.Fd())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{Dir: "/", Env: env, Files: []uintptr{in.Fd(), out.Fd(), out.Fd()}, Sys: sys})
	if err != nil {
		return nil, fmt.Errorf("execute %s: %w", path, err)
	}
	c := &child{pid: pid, done: make(chan struct{})}
	r.children[pid] = c
	return c, nil
}

// run reaps whenever a child ends.
func (r *reaper) run() error {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGCHLD)
	defer signal.Stop(c)
	for {
		if err := r.reapAll(); err != nil {
			return err
		}
		<-c
	}
}

func (r *reaper) reapAll() error {
	var orphans []process.Exit
	r.mu.Lock()
	for {
		e, ok := process.Next()
		if !ok {
			break
		}
		if c := r.children[e.Pid]; c != nil {
			delete(r.children, e.Pid)
			c.exit = e
			close(c.done)
			continue
		}
		orphans = append(orphans, e)
	}
	r.mu.Unlock()
	return r.record(orphans, time.Now())
}

// record appends the orphans in one write, so that a reader sees whole lines.
func (r *reaper) record(exits []process.Exit, now time.Time) error {
	if len(exits) == 0 {
		return nil
	}
	var b strings.Builder
	for _, e := range exits {
		fmt.Fprintf(&b, "%d %d %d %d\n", e.Pid, e.Start, uint32(e.Status), now.UnixNano())
	}
	f, err := os.OpenFile(r.file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("record reaped processes: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteString(b.String()); err != nil {
		return fmt.Errorf("record reaped processes: %w", err)
	}
	if r.records += len(exits); r.records >= 2*maxRecords {
		return r.cut()
	}
	return nil
}

// cut keeps the newest lines. A reader has either the old file or the new one.
func (r *reaper) cut() error {
	text, err := os.ReadFile(r.file)
	if err != nil {
		return fmt.Errorf("cut the record of reaped processes: %w", err)
	}
	kept := lastLines(text, maxRecords)
	if err := os.WriteFile(r.file+".new", kept, 0o600); err != nil {
		return fmt.Errorf("cut the record of reaped processes: %w", err)
	}
	r.records = bytes.Count(kept, []byte("\n"))
	return os.Rename(r.file+".new", r.file)
}

// lastLines returns the end of text that holds its last n lines.
func lastLines(text []byte, n int) []byte {
	for i := len(text) - 1; i > 0; i-- {
		if text[i-1] != '\n' {
			continue
		}
		if n--; n == 0 {
			return text[i:]
		}
	}
	return text
}

// lines splits for logging.
func lines(text []byte) []string { return strings.Split(strings.TrimSpace(string(text)), "\n") }
