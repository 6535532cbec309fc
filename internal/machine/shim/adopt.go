// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// adopt takes over what an earlier instance held. What it can't take over it
// ends and removes: a container that nobody holds can't be stopped by anyone.
func (s *Server) adopt() {
	entries, _ := os.ReadDir(filepath.Join(s.dir, "tasks")) // none after a boot
	// Those that ended meanwhile are true answers only when PID 1 was asked.
	defer s.asking.Wait()
	for _, e := range entries {
		id := e.Name()
		c, err := s.adoptContainer(id)
		if err != nil {
			fmt.Fprintf(os.Stderr, "wherry-shim: remove container %s: %v\n", id, err)
			s.discard(id)
			continue
		}
		s.all[id] = c
	}
}

func (s *Server) adoptContainer(id string) (*container, error) {
	rec, err := readRecord(s.recordPath(id, ""))
	if err != nil {
		return nil, err
	}
	if rec.Stage != stageReady {
		return nil, fmt.Errorf("its creation was cut short")
	}
	c := &container{id: id, bundle: rec.Bundle, stateDir: filepath.Join(s.containersDir(), id), execs: map[string]*task{}}
	if c.lc, err = libcontainer.Load(s.containersDir(), id); err != nil {
		return nil, err
	}
	config := c.lc.Config()
	c.describe(&config)
	state, err := c.lc.State()
	if err != nil {
		return nil, err
	}
	rec.Pid, rec.Start = state.InitProcessPid, state.InitProcessStartTime
	c.init = s.adoptTask(id, "", rec, c.killRest)
	if _, err := os.Lstat(filepath.Join(c.stateDir, execFIFO)); err != nil {
		c.init.setPhase(running)
	}
	if st, err := c.lc.Status(); err == nil {
		c.paused = st == libcontainer.Paused
	}
	return c, s.adoptExecs(c)
}

func (s *Server) adoptExecs(c *container) error {
	execs, err := s.execNames(c.id)
	if err != nil {
		return err
	}
	for _, name := range execs {
		rec, err := readRecord(s.recordPath(c.id, name))
		if err != nil {
			return err
		}
		t := s.adoptTask(c.id, name, rec, func() {})
		t.setPhase(running)
		c.execs[name] = t
	}
	return nil
}

// adoptTask watches a process that is no child of this one.
func (s *Server) adoptTask(id, exec string, rec record, after func()) *task {
	pipes := keepLeft(rec.IO, rec.StdinClosed)
	t := newTask(id, exec, s.recordPath(id, exec), rec, pipes)
	t.pid = rec.Pid
	if rec.Exit != nil {
		t.end(*rec.Exit)
		return t
	}
	if rec.Pid == 0 { // an exec that was not started, or not said to be
		t.end(exit{Code: unknownExit, At: time.Now()})
		return t
	}
	h, alive := findProcess(rec.Pid, rec.Start)
	if !alive {
		s.asking.Go(func() {
			after()
			s.endAdopted(t)
		})
		return t
	}
	t.hold = h
	go func() {
		h.wait()
		after()
		s.endAdopted(t)
	}()
	return t
}

// findProcess holds the process if the number still means the same one.
func findProcess(pid int, start uint64) (*handle, bool) {
	if pid <= 0 {
		return nil, false
	}
	h, err := openHandle(pid)
	if err != nil {
		return nil, false
	}
	if now := startTime(pid); now != start || start == 0 {
		h.close()
		return nil, false
	}
	return h, true
}

// endAdopted asks PID 1 how the process ended: it was given it, and reaped it.
func (s *Server) endAdopted(t *task) {
	e := s.askReaper(t.rec.Pid, t.rec.Start)
	t.save(func(r *record) { r.Exit = &e })
	t.end(e)
}

const (
	// reaperTime bounds how long PID 1 may take to write down what it reaped.
	reaperTime  = 2 * time.Second
	reaperPause = 5 * time.Millisecond
)

func (s *Server) askReaper(pid int, start uint64) exit {
	ctx, cancel := context.WithTimeout(context.Background(), reaperTime)
	defer cancel()
	for {
		if b, err := os.ReadFile(s.reaped); err == nil {
			if e, ok := findReaped(b, pid, start); ok {
				return e
			}
		}
		select {
		case <-time.After(reaperPause):
		case <-ctx.Done():
			return exit{Code: unknownExit, At: time.Now()}
		}
	}
}

// findReaped looks for the last line "PID STARTTIME WAITSTATUS UNIXNANO" of a process.
func findReaped(text []byte, pid int, start uint64) (e exit, found bool) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		f := bytes.Fields(lines.Bytes())
		if len(f) != 4 || string(f[0]) != strconv.Itoa(pid) || string(f[1]) != strconv.FormatUint(start, 10) {
			continue
		}
		status, err1 := strconv.ParseUint(string(f[2]), 10, 32)
		nano, err2 := strconv.ParseInt(string(f[3]), 10, 64)
		if err1 == nil && err2 == nil {
			e, found = exit{Code: exitCode(unix.WaitStatus(status)), At: time.Unix(0, nano)}, true
		}
	}
	return e, found
}

// discard ends and removes what is left of a container that can't be held.
func (s *Server) discard(id string) {
	rec, err := readRecord(s.recordPath(id, ""))
	if err == nil {
		err = discardGroup(rec.Bundle)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		fmt.Fprintf(os.Stderr, "wherry-shim: remove what is left of container %s: %v\n", id, err)
	}
	os.RemoveAll(filepath.Join(s.containersDir(), id))
	os.RemoveAll(s.taskDir(id))
}

// discardGroup finds the cgroup by the bundle: libcontainer may not have got
// as far as writing it down.
func discardGroup(bundle string) error {
	spec, err := readSpec(bundle)
	if err != nil {
		return err
	}
	c := container{cgroup: cgroupDir(spec.Linux.CgroupsPath)}
	if err := c.killAll(); err != nil {
		return err
	}
	return cgroups.RemovePath(c.cgroup)
}
