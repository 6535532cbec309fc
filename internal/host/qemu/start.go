// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"wherry.example/wherry/internal/atomicfile"
)

// StartOptions are what one start needs beside what is remembered.
type StartOptions struct {
	// Settings replace the remembered ones.
	Settings Settings
	// Config is the machine's configuration document. Empty: the one of the last start.
	Config []byte
	// Timeout for the machine to become ready; 0: 6 minutes, which an emulated
	// machine can need on a busy computer.
	Timeout time.Duration
	// Progress is told in lines how the start goes; nil: nobody.
	Progress io.Writer
}

// ErrRunning says that the machine runs already.
var ErrRunning = errors.New("machine is running already")

const defaultTimeout = 6 * time.Minute

// maxLaunches is how often a boot is tried whose kernel hung before it said anything.
const maxLaunches = 3

// Start starts the machine and waits until it is ready. When that fails, QEMU
// is ended again.
func (vm *VM) Start(ctx context.Context, o StartOptions) (Run, error) {
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	accelerator, err := Accelerator(ctx, CacheDir())
	if err != nil {
		return Run{}, err
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, fmt.Errorf("not ready within %v", o.Timeout))
	defer cancel()
	before, err := vm.remembered()
	if err != nil {
		return Run{}, err
	}
	run, err := vm.startUntilReady(ctx, o, accelerator)
	if err != nil && ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("machine %s was not started: %w", vm.name, context.Cause(ctx))
	}
	if err != nil && !errors.Is(err, ErrRunning) {
		// What kept it from starting shall not be what the next start begins with.
		if rerr := before.restore(vm); rerr != nil {
			err = errors.Join(err, rerr)
		}
	}
	return run, err
}

// startUntilReady launches the machine, again where the reason not to become
// ready is one that another try can do without.
func (vm *VM) startUntilReady(ctx context.Context, o StartOptions, accelerator string) (Run, error) {
	for launch := 1; ; launch++ {
		run, err := vm.launch(ctx, o, accelerator)
		// Whoever started it may have died while waiting: this one waits on.
		if starting := errors.Is(err, ErrRunning) && run.Ready.Fingerprint == ""; err != nil && !starting {
			return Run{}, err
		}
		ready, err := vm.awaitReady(ctx, run, o.Progress)
		if err == nil {
			if err := lengthenQueues(run.PID, run.ProcessStart); err != nil {
				fmt.Fprintf(o.Progress, "warning: of many connections at the same moment most will wait: %v\n", err)
			}
			run.Ready = ready
			return run, vm.writeJSON("run.json", run)
		}
		if killErr := vm.killRun(run); killErr != nil {
			return Run{}, errors.Join(err, killErr)
		}
		if errors.Is(err, errAccelerator) {
			accelerator = "tcg"
			err = errors.Join(err, distrust(run.Accelerator))
		}
		retry := errors.Is(err, errHung) || errors.Is(err, errAccelerator)
		if !retry || launch == maxLaunches {
			return Run{}, vm.startError(run, err)
		}
		fmt.Fprintf(o.Progress, "%v: starting again\n", err)
	}
}

// launch prepares everything and starts QEMU.
func (vm *VM) launch(ctx context.Context, o StartOptions, accelerator string) (Run, error) {
	unlock, err := vm.lock()
	if err != nil {
		return Run{}, err
	}
	defer unlock()
	if run, ok := vm.Run(); ok {
		return run, fmt.Errorf("%w: %s (pid %d)", ErrRunning, vm.name, run.PID)
	}
	vm.quitOrphan(ctx)
	before, _ := vm.Run()
	s, err := vm.prepare(ctx, o)
	if err != nil {
		return Run{}, err
	}
	offset, err := vm.rotateConsole()
	if err != nil {
		return Run{}, fmt.Errorf("keep the console's log: %w", err)
	}
	_, err = os.Stat(vm.path("config.yaml"))
	args := arguments(vm.name, vm.usable(s, o.Progress), accelerator, err == nil)
	fmt.Fprintf(o.Progress, "starting %s: %s, %d MiB, %d CPUs\n", vm.name, accelerator, s.MemoryMiB, s.CPUs)
	tpm, err := vm.startTPM(ctx, s, before.TPM)
	if err != nil {
		return Run{}, err
	}
	pid, start, err := vm.spawn(args)
	if err != nil {
		return Run{}, errors.Join(fmt.Errorf("start QEMU for machine %s: %w", vm.name, err), killProcess(tpm.PID, tpm.ProcessStart))
	}
	run := Run{PID: pid, ProcessStart: start, StartedAt: time.Now(), Accelerator: accelerator, ConsoleOffset: offset, ImageID: s.imageID(), TPM: tpm}
	if err := vm.writeJSON("run.json", run); err != nil {
		return Run{}, errors.Join(err, killProcess(pid, start), killProcess(tpm.PID, tpm.ProcessStart))
	}
	return run, nil
}

// prepare makes the settings whole, remembers them, and writes the files that QEMU opens.
func (vm *VM) prepare(ctx context.Context, o StartOptions) (Settings, error) {
	s, err := absolutePaths(o.Settings)
	if err != nil {
		return s, err
	}
	s.Forwards = slices.Clone(s.Forwards)
	for i := range s.Forwards {
		f := &s.Forwards[i]
		*f = f.withDefaults()
		if f.HostPort == 0 {
			if f.HostPort, err = freePort(f.Protocol, f.HostAddress); err != nil {
				return s, fmt.Errorf("find a free port for %s: %w", f, err)
			}
		}
	}
	if err := s.validate(); err != nil {
		return s, err
	}
	if err := vm.bootable(s); err != nil {
		return s, err
	}
	if err := s.portsFree(); err != nil {
		return s, err
	}
	if s.APIPort == 0 || apiForward(s).portFree() != nil {
		if s.APIPort, err = freePort("tcp", "127.0.0.1"); err != nil {
			return s, fmt.Errorf("find a free port for the API: %w", err)
		}
	}
	if err := vm.prepareFirmware(s); err != nil {
		return s, err
	}
	if err := vm.copyDiskImage(ctx, s.DiskImage); err != nil {
		return s, err
	}
	if err := vm.prepareDisk(s.DiskBytes); err != nil {
		return s, err
	}
	if len(o.Config) > 0 {
		if err := atomicfile.Write(vm.path("config.yaml"), o.Config, 0o600); err != nil {
			return s, err
		}
	}
	return s, vm.saveSettings(s)
}

func absolutePaths(s Settings) (Settings, error) {
	var err error
	if s.Image, err = filepath.Abs(s.Image); err != nil {
		return s, err
	}
	for _, file := range []*string{&s.DiskImage, &s.CDROM} {
		if *file == "" {
			continue
		}
		if *file, err = filepath.Abs(*file); err != nil {
			return s, err
		}
	}
	s.ExtraDisks = slices.Clone(s.ExtraDisks)
	for i, path := range s.ExtraDisks {
		if s.ExtraDisks[i], err = filepath.Abs(path); err != nil {
			return s, err
		}
	}
	return s, nil
}

// usable leaves out the forwards that were added while the machine ran and
// whose port somebody else has now: the container they were for may be long gone.
func (vm *VM) usable(s Settings, progress io.Writer) Settings {
	s.Forwards = slices.DeleteFunc(slices.Clone(s.Forwards), func(f Forward) bool {
		if !f.Added {
			return false
		}
		err := f.portFree()
		if err != nil {
			fmt.Fprintf(progress, "warning: forward %s left out: %v\n", f, err)
		}
		return err != nil
	})
	return s
}

// prepareDisk makes the state disk, or makes it larger. Its blocks are
// allocated when they are written.
func (vm *VM) prepareDisk(size int64) error {
	if size == 0 {
		return nil
	}
	f, err := os.OpenFile(vm.path("state.img"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("make the state disk: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("make the state disk: %w", err)
	}
	if info.Size() > size {
		return fmt.Errorf("the state disk of machine %s has %d bytes already and can't shrink to %d: use a --disk at least as large", vm.name, info.Size(), size)
	}
	if err := f.Truncate(size); err != nil {
		return fmt.Errorf("make the state disk: %w", err)
	}
	return nil
}

// spawn starts QEMU in a session of its own, so that neither the end of this
// process nor a ctrl-C in its terminal reaches it.
func (vm *VM) spawn(args []string) (pid int, start string, err error) {
	path, err := findBinary()
	if err != nil {
		return 0, "", err
	}
	log, err := os.OpenFile(vm.path("qemu.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, "", err
	}
	defer log.Close()
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = vm.dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, "", err
	}
	start, err = processStart(cmd.Process.Pid)
	// Reaps QEMU when it ends before this process does.
	go func() { _ = cmd.Wait() }()
	if err != nil {
		text, _ := os.ReadFile(vm.path("qemu.log"))
		return 0, "", fmt.Errorf("QEMU ended at once: %s", strings.TrimSpace(string(text)))
	}
	return cmd.Process.Pid, start, nil
}

// quitOrphan ends a QEMU whose starter died before it wrote run.json.
func (vm *VM) quitOrphan(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	q, err := vm.monitor(ctx)
	if err != nil {
		return // nobody listens: there is no orphan
	}
	defer q.Close()
	if q.execute(ctx, "quit", nil, nil) == nil {
		time.Sleep(200 * time.Millisecond) // until it let go of its files
	}
}

func (vm *VM) startError(run Run, err error) error {
	console, _ := vm.consoleFrom(run.ConsoleOffset)
	qemu, _ := os.ReadFile(vm.path("qemu.log"))
	e := &StartError{Name: vm.name, Console: tailLines(console, 15), QEMU: tailLines(qemu, 10), Log: vm.path("console.log")}
	e.Cause = likelyCause(strings.Join(cleanLines(qemu), "\n"), strings.Join(cleanLines(console), "\n"))
	switch {
	case errors.Is(err, ErrPaused):
		e.Cause = err.Error()
	case e.Cause == "" && e.Console == "" && !errors.Is(err, errEnded):
		e.Cause = fmt.Sprintf("%v: the kernel said nothing; the machine may have too little memory for its image (use a larger --memory), or this computer is very busy", err)
	case e.Cause == "":
		e.Cause = err.Error()
	}
	return e
}
