// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package shim is the one process of a machine that holds all its containers.
// It is its own runtime: libcontainer is linked in, and its program is also
// what runs first inside of a container (package nsinit).
//
// Protocol: containerd's task API, version 3, over ttrpc on the unix socket
// DIR/shim.sock. Namespaces are ignored: ids are unique over the machine.
// Create reads BUNDLE/config.json, whose root is mounted already and whose paths are
// absolute, and makes the container up to the point before its program; Start
// lets that run. A stopped process is kept, with its exit code, until Delete.
//
// Standard streams are FIFOs that the caller made. Without a terminal the
// process has the FIFO itself: nothing is copied here. This process holds a reading end of
// each output and a writing end of the input, without reading or writing, until
// Delete (the input: until CloseIO): what was written outlives its writer and
// an absent reader, and a reader away is no end of input. A terminal is copied, here,
// between its master and the FIFOs; when nobody reads, it waits.
//
// One instance works in DIR; it holds DIR/lock, and a second one ends at once.
// It owns DIR: containers/ID is libcontainer's state, tasks/ID/*.json what
// is to be known besides, written before a process can run and before its end is told. A
// new instance takes over what runs by that, before its socket is there: processes are
// found by number and start time and held by pidfd. They are no children of it,
// so PID 1 reaps them, and its record says how they ended; without it the code is
// 255. What was lost with the old instance are terminals (the kernel hangs them up), the
// output of an ended container that nobody had open, and execs in the
// microseconds between their start and its record. A container that was half
// made is ended and removed.
//
// No thread waits for a container, and waiting costs no memory but a goroutine's.
// SIGTERM ends this process only when it holds no container; Shutdown too.
package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	_ "github.com/opencontainers/cgroups/devices" // lets cgroups hold the device rules
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// Options says where things are.
type Options struct {
	Dir    string // the socket, the lock and the state; ends with the boot
	Reaped string // PID 1's record of what it reaped
}

// Server is the containers and their API.
type Server struct {
	dir     string
	reaped  string
	stop    chan struct{}
	trim    trim
	filters shared
	asking  sync.WaitGroup // for ends that an earlier instance did not see

	mu   sync.Mutex
	all  map[string]*container // nil while it is being created
	made *sync.Cond            // something that was being created is so no more
	quit bool
}

// Run serves until it is told to end. Another instance at work is no error.
func Run(o Options) error {
	if err := prepare(); err != nil {
		return err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return err
	}
	lock, err := takeLock(filepath.Join(o.Dir, "lock"))
	if errors.Is(err, unix.EWOULDBLOCK) {
		fmt.Fprintln(os.Stderr, "wherry-shim: another instance holds", o.Dir)
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	s := &Server{dir: o.Dir, reaped: o.Reaped, all: map[string]*container{}, stop: make(chan struct{}), trim: newTrim()}
	s.made = sync.NewCond(&s.mu)
	s.adopt()
	go s.heedSignals()
	return s.serve()
}

// prepare makes this process one that lasts and costs little.
func prepare() error {
	logrus.SetOutput(io.Discard) // ttrpc's and libcontainer's; what matters comes back as errors
	debug.SetGCPercent(gcPercent)
	runtime.GOMAXPROCS(processors)
	// libcontainer hands it on to what runs first in a container.
	if err := os.Setenv("GOMAXPROCS", "1"); err != nil {
		return err
	}
	unix.Umask(0o022)
	return os.Chdir("/")
}

const (
	// gcPercent keeps the heap small: it is a few hundred kilobytes, and Go would let it grow to 4 MB.
	gcPercent = 25
	// processors bounds Go's caches. The work is done by the children.
	processors = 2
)

// quietTime is how long nothing must have happened before memory is given back.
const quietTime = 2 * time.Second

// trim gives memory that starts and ends of containers used back to the kernel once it is quiet.
type trim struct{ timer *time.Timer }

func newTrim() trim {
	return trim{time.AfterFunc(quietTime, debug.FreeOSMemory)}
}

func (t trim) later() { t.timer.Reset(quietTime) }

// takeLock is held until this process ends, however it does.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// listen makes the socket appear only when there is someone to answer.
func listen(path string) (net.Listener, error) {
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(tmp, 0o600); err != nil {
		return nil, err
	}
	return l, os.Rename(tmp, path)
}

func (s *Server) serve() error {
	l, err := listen(filepath.Join(s.dir, "shim.sock"))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	api, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	taskapi.RegisterTTRPCTaskService(api, service{s})
	go func() {
		<-s.stop
		os.Remove(filepath.Join(s.dir, "shim.sock"))
		api.Shutdown(context.Background())
	}()
	err = api.Serve(context.Background(), l)
	if errors.Is(err, ttrpc.ErrServerClosed) {
		return nil
	}
	return err
}

// heedSignals ignores what would end this process while it holds containers.
// They are caught rather than ignored: containers would inherit that.
func (s *Server) heedSignals() {
	c := make(chan os.Signal, 8)
	signal.Notify(c, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGPIPE, unix.SIGQUIT)
	for sig := range c {
		if sig == unix.SIGTERM {
			s.endIfEmpty()
		}
	}
}

// endIfEmpty ends this process if it holds no container; no new one is taken after that.
func (s *Server) endIfEmpty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) > 0 {
		return false
	}
	if !s.quit {
		s.quit = true
		close(s.stop)
	}
	return true
}
