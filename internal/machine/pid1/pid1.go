// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package pid1 is the first process of a Wherry machine. It does what only
// the first process can do, and nothing else:
//
//   - boot: the tables in table.go, from a read-only root (cmd/wherry-early) to
//     everything mounted and the modules that the hardware asks for loaded;
//   - keep wherryd running (package supervise);
//   - reap every orphan, and record it in /run/wherry/reaped, because the exit
//     status of a container's process is told to its parent only, and that is
//     PID 1 once the shim or wherryd died (reap.go);
//   - load modules for devices that appear later (devices.go);
//   - end the run in order (shutdown.go): SIGTERM and SIGINT (Ctrl-Alt-Delete)
//     restart the machine, SIGUSR2 and the power button power it off;
//   - for tests only, kill wherryd when the console says so (chaos.go).
//
// Run again under the name modprobe, the same program loads one module for the
// kernel (modprobe.go).
//
// It reads the kernel's command line (flags.go) and no configuration, opens no
// port, and parses nothing that comes from a network. It must never end: the
// kernel panics when it does. Every goroutine recovers; an error at boot that
// nothing can go on from is printed on all consoles with a hint, and the
// machine restarts after half a minute, or stays with wherry.onfail=halt.
package pid1

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/linux/kmsg"
	"wherry.example/wherry/internal/linux/module"
	"wherry.example/wherry/internal/linux/power"
	"wherry.example/wherry/internal/linux/process"
	"wherry.example/wherry/internal/linux/tty"
	"wherry.example/wherry/internal/linux/uevent"
	"wherry.example/wherry/internal/machine/supervise"
)

// daemon is the program that this one lives for.
const daemon = "/bin/wherryd"

// policy is how wherryd is kept: it needs up to 90 s to stop its containers.
var policy = supervise.Policy{
	FirstDelay: 100 * time.Millisecond, MaxDelay: 10 * time.Second, Healthy: 30 * time.Second,
	Grace: 90 * time.Second, KillGrace: 10 * time.Second,
}

// failDelay is how long a failed boot stays readable before the machine restarts.
const failDelay = 30 * time.Second

// machine is what the parts of this package share. All of it is set before the
// first goroutine starts, but what names its lock.
type machine struct {
	log    *kmsg.Log
	flags  flags
	reaper *reaper
	events *uevent.Listener // used by hotplug alone, once boot has opened it
	// modules is there from the softdog to the first coldplug, which lets go of it.
	modules *module.Loader

	daemon  atomic.Pointer[child] // the wherryd that was started last
	ends    chan power.End        // requests to end the run
	goodbye sync.Once
	kennel  kennel
}

// Run is the life of PID 1. It does not return.
func Run() {
	m := &machine{reaper: newReaper(reapedFile), ends: make(chan power.End, 1)}
	defer m.forever()
	defer m.survive("boot")
	signals := m.catch()
	if err := m.boot(); err != nil {
		m.fail(err)
	}
	m.run(signals)
}

// forever keeps the process alive when nothing else is left to do.
func (m *machine) forever() {
	for {
		time.Sleep(time.Hour)
	}
}

// survive turns a panic into a line of the log. It is deferred.
func (m *machine) survive(what string) {
	if r := recover(); r != nil {
		m.log.Errorf("%s: bug in wherry-init: %v", what, r)
		for _, line := range lines(debug.Stack()) {
			m.log.Errorf("  %s", line)
		}
	}
}

// keep runs f in a goroutine, and again a second after it returned or panicked.
func (m *machine) keep(what string, f func() error) {
	go func() {
		for {
			func() {
				defer m.survive(what)
				if err := f(); err != nil {
					m.log.Errorf("%s: %v", what, err)
				}
			}()
			time.Sleep(time.Second)
		}
	}()
}

// catch takes every signal that can be taken: PID 1 is immune to those that it
// leaves to the kernel, but not to the Go runtime's own idea of them, which is to exit.
func (m *machine) catch() <-chan os.Signal {
	c := make(chan os.Signal, 16)
	for n := syscall.Signal(1); n <= 64; n++ {
		switch n {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGURG: // the last is how the runtime preempts
		default:
			signal.Notify(c, n)
		}
	}
	return c
}

// run starts what runs beside wherryd, and keeps wherryd until the run ends.
func (m *machine) run(signals <-chan os.Signal) {
	if m.flags.hang {
		m.notice("chaos hangs wherry-init")
		m.forever()
	}
	m.keep("reap", m.reaper.run)
	m.keep("signals", func() error { return m.listen(signals) })
	m.keep("devices", m.hotplug)
	go m.watchTrial()
	m.keep("power button", m.button)
	if m.flags.chaos {
		m.keep("chaos", m.chaos)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var end power.End
	go func() {
		defer m.survive("end")
		end = <-m.ends
		go m.deadline(end)
		stop()
	}()
	s := supervise.Supervisor{Program: "wherryd", Policy: m.policy(), Start: m.startDaemon, Report: m.report}
	s.Run(ctx)
	m.shutdown(end)
}

// report shows what happens to wherryd; what is no part of a normal run, loudly.
func (m *machine) report(e supervise.Event) {
	switch e.Kind {
	case supervise.Started, supervise.Stopped:
		m.log.Infof("%s", e)
	case supervise.Stopping:
		m.notice("%s", e)
	default:
		m.log.Errorf("%s", e)
	}
}

// listen turns signals into requests, and tells the watchdogs that somebody does.
func (m *machine) listen(signals <-chan os.Signal) error {
	tick := time.NewTicker(petEvery)
	defer tick.Stop()
	for {
		m.alive()
		select {
		case <-tick.C:
		case s := <-signals:
			m.heard(s)
		}
	}
}

func (m *machine) heard(s os.Signal) {
	switch s {
	case unix.SIGTERM, unix.SIGINT:
		m.request(power.Restart, s.String())
	case unix.SIGUSR2:
		m.request(power.Off, s.String())
	default:
		m.log.Debugf("signal %s: nothing to do", s)
	}
}

// request asks for the end of the run. The first request counts; a second one
// neither changes it nor begins the end anew.
func (m *machine) request(end power.End, why string) {
	m.goodbye.Do(func() {
		m.notice("%s (%s)", end, why)
		m.ends <- end
	})
}

// notice tells whoever looks at a console what the machine is about to do,
// even if the kernel was told to be quiet there.
func (m *machine) notice(format string, args ...any) {
	m.log.Recordf(format, args...)
	show("wherry: " + fmt.Sprintf(format, args...) + "\n")
}

// show writes to all consoles.
func show(text string) { tty.Consoles{Devices: tty.Active("/sys")}.Write([]byte(text)) }

func (m *machine) button() error {
	b, err := power.OpenButton()
	if err != nil {
		return err
	}
	defer b.Close()
	for {
		if err := b.Wait(); err != nil {
			return err
		}
		m.request(power.Off, "power button")
	}
}

// fail says why there is no machine, and what to do, and ends the run.
func (m *machine) fail(err error) {
	m.log.Recordf("boot failed: %v", err)
	show(fmt.Sprintf("\nwherry: boot failed: %v\n%s\n", err, m.flags.onFail.sentence()))
	if m.flags.onFail == onFailHalt {
		m.disarmDogs()
		m.forever()
	}
	time.Sleep(failDelay)
	m.finish(m.flags.onFail.end())
	m.forever()
}

// startDaemon starts wherryd. Its output goes to the console: it has a log of
// its own, and what it still prints is what a person must see.
func (m *machine) startDaemon() (supervise.Process, error) {
	env := []string{"PATH=/bin:/sbin", "HOME=/root", "TMPDIR=/tmp", "TERM=linux"}
	if m.flags.debug {
		env = append(env, "WHERRY_DEBUG=1")
	}
	c, err := m.reaper.start(daemon, []string{daemon}, env, daemonGroup)
	if err != nil {
		return nil, err
	}
	m.daemon.Store(c)
	if err := protect(c.Pid(), daemonScore); err != nil {
		m.log.Errorf("protect wherryd from the OOM killer: %v", err)
	}
	return c, nil
}

// protect sets how willingly the kernel kills a process when memory runs out.
func protect(pid, score int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), fmt.Appendf(nil, "%d", score), 0)
}

var _ supervise.Process = (*child)(nil)

// Outcome says in words how the child ended.
func (c *child) Outcome() string { return process.Describe(c.exit.Status) }
