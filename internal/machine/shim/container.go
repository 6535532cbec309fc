// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// container is what this process holds of one container.
type container struct {
	id       string
	bundle   string
	init     *task
	lc       *libcontainer.Container
	stateDir string // libcontainer's
	cgroup   string // its directory
	ownPids  bool   // a PID namespace of its own: the end of the first process is the end of all

	freezing sync.RWMutex // held for reading while a process starts: a frozen one would never be done

	mu     sync.Mutex
	paused bool
	absent bool // was destroyed
	gone   bool // is being destroyed
	execs  map[string]*task
}

func (c *container) find(exec string) (*task, error) {
	if exec == "" {
		return c.init, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.execs[exec]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("process %s of container %s: %w", exec, c.id, errdefs.ErrNotFound)
}

// containersDir is libcontainer's own; a directory in it is a container.
func (s *Server) containersDir() string { return filepath.Join(s.dir, "containers") }

// create makes a container up to the point before its program's first
// instruction. What fails leaves nothing behind.
func (s *Server) create(id, bundle string, io names) (_ *container, err error) {
	c := &container{id: id, bundle: bundle, stateDir: filepath.Join(s.containersDir(), id), execs: map[string]*task{}}
	spec, err := readSpec(bundle)
	if err != nil {
		return nil, err
	}
	rec := record{Stage: stageCreating, Bundle: bundle, IO: io}
	if err := os.MkdirAll(s.taskDir(id), 0o700); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(s.taskDir(id))
		}
	}()
	if err := rec.write(s.recordPath(id, "")); err != nil {
		return nil, err
	}
	config, err := configOf(id, spec)
	if err != nil {
		return nil, err
	}
	s.filters.share(config)
	p, err := processOf(spec.Process, true)
	if err != nil {
		return nil, err
	}
	if c.lc, err = libcontainer.Create(s.containersDir(), id, config); err != nil {
		return nil, err
	}
	c.describe(config)
	pipes, err := keep(io)
	if err == nil {
		c.init = newTask(id, "", s.recordPath(id, ""), rec, pipes)
		err = c.init.launch(c.lc, p, c.killRest)
	}
	if err != nil {
		c.abort()
		return nil, err
	}
	return c, nil
}

func (c *container) describe(config *configs.Config) {
	c.cgroup = cgroupDir(config.Cgroups.Path)
	c.ownPids = config.Namespaces.IsPrivate(configs.NEWPID)
}

func cgroupDir(path string) string { return filepath.Join("/sys/fs/cgroup", path) }

// abort undoes a creation.
func (c *container) abort() {
	if c.init != nil {
		if c.init.signal(unix.SIGKILL) == nil {
			<-c.init.done
		}
		c.init.release()
	}
	c.lc.Destroy() // the first error is the one to tell
}

// killRest ends what outlives the first process where no PID namespace does it.
func (c *container) killRest() {
	if !c.ownPids {
		c.killAll() // what can't be killed is met again at the removal of the cgroup
	}
}

func (c *container) killAll() error {
	err := cgroups.WriteFile(c.cgroup, "cgroup.kill", "1")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// launch starts the process and watches it from then on.
func (t *task) launch(lc *libcontainer.Container, p *libcontainer.Process, after func()) error {
	console, err := t.attach(p)
	if err != nil {
		return err
	}
	err = lc.Start(p)
	closeAll(p)
	if err != nil {
		if console != nil {
			console.Close()
		}
		return err
	}
	return t.adoptChild(p, console, after)
}

// attach gives the process its standard files, or a socket to send its terminal through.
func (t *task) attach(p *libcontainer.Process) (console *os.File, err error) {
	if t.rec.IO.Terminal {
		console, p.ConsoleSocket, err = consoleSocket()
		return console, err
	}
	files, err := t.io.open()
	if err != nil {
		return nil, err
	}
	p.Stdin, p.Stdout, p.Stderr = files[0], files[1], files[2]
	return nil, nil
}

// closeAll closes our copies of what the process was given.
func closeAll(p *libcontainer.Process) {
	for _, f := range []any{p.Stdin, p.Stdout, p.Stderr} {
		if c, ok := f.(io.Closer); ok {
			c.Close()
		}
	}
	if p.ConsoleSocket != nil {
		p.ConsoleSocket.Close()
	}
	p.Stdin, p.Stdout, p.Stderr, p.ConsoleSocket = nil, nil, nil, nil
}

// adoptChild takes care of a child that libcontainer has started.
func (t *task) adoptChild(p *libcontainer.Process, console *os.File, after func()) error {
	pid, err := p.Pid()
	if err != nil {
		return err
	}
	h, err := openHandle(pid)
	if err == nil && console != nil {
		err = t.takeTerminal(console)
	}
	if err != nil {
		p.Signal(unix.SIGKILL)
		p.Wait()
		if h != nil {
			h.close()
		}
		return err
	}
	t.mu.Lock()
	t.pid, t.hold = pid, h
	t.mu.Unlock()
	err = t.save(func(r *record) { r.Stage, r.Pid, r.Start = stageReady, pid, startTime(pid) })
	go t.watch(h, p, after)
	return err
}

func (t *task) takeTerminal(console *os.File) error {
	defer console.Close()
	master, err := receiveMaster(console)
	if err != nil {
		return err
	}
	tty, err := openTerminal(master, t.io)
	if err != nil {
		master.Close()
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tty = tty
	return nil
}

// release gives back what only this process has of a task.
func (t *task) release() {
	t.mu.Lock()
	tty := t.tty
	t.tty = nil
	t.mu.Unlock()
	if tty != nil {
		tty.close()
	}
	t.io.close()
}

// execTasks lists the execs in order.
func (c *container) execTasks() []*task {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*task
	for _, t := range c.execs {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b *task) int { return a.pid - b.pid })
	return all
}
