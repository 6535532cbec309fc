// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// tpmProcess is the swtpm of a running machine. It ends by itself when QEMU
// lets go of it, however QEMU ended.
type tpmProcess struct {
	PID          int    `json:"pid"`
	ProcessStart string `json:"processStart"`
}

const (
	tpmSocket = "tpm.sock"
	tpmState  = "tpm"
	tpmLimit  = 10 * time.Second
	tpmGrace  = 2 * time.Second // to end after QEMU
)

// startTPM starts the machine's TPM, whose secrets and counters are in the
// folder tpm. Nothing happens for machines without one.
func (vm *VM) startTPM(ctx context.Context, s Settings, before tpmProcess) (tpmProcess, error) {
	if !s.TPM {
		return tpmProcess{}, nil
	}
	path, err := exec.LookPath("swtpm")
	if err != nil {
		return tpmProcess{}, errors.New("a machine with a TPM needs swtpm: install it (Debian's package is swtpm)")
	}
	if err := vm.endTPM(ctx, before); err != nil {
		return tpmProcess{}, err
	}
	if err := os.MkdirAll(vm.path(tpmState), 0o700); err != nil {
		return tpmProcess{}, fmt.Errorf("make the TPM of machine %s: %w", vm.name, err)
	}
	t, err := vm.spawnTPM(path)
	if err != nil {
		return t, fmt.Errorf("start the TPM of machine %s: %w", vm.name, err)
	}
	return t, nil
}

func (vm *VM) spawnTPM(path string) (t tpmProcess, err error) {
	log, err := os.OpenFile(vm.path("tpm.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return t, err
	}
	defer log.Close()
	cmd := exec.Command(path, "socket", "--tpm2", "--tpmstate", "dir="+tpmState+",mode=0600", "--ctrl", "type=unixio,path="+tpmSocket+",mode=0600", "--terminate")
	cmd.Dir, cmd.Stdout, cmd.Stderr = vm.dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return t, err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // reaps it when it ends before this process does
		close(ended)
	}()
	t.PID = cmd.Process.Pid
	if t.ProcessStart, err = processStart(t.PID); err != nil {
		return tpmProcess{}, vm.tpmError()
	}
	for deadline := time.Now().Add(tpmLimit); ; time.Sleep(10 * time.Millisecond) {
		select {
		case <-ended:
			return tpmProcess{}, vm.tpmError()
		default:
		}
		if _, err := os.Stat(vm.path(tpmSocket)); err == nil {
			return t, nil
		}
		if time.Now().After(deadline) {
			return tpmProcess{}, errors.Join(fmt.Errorf("it does not listen after %v", tpmLimit), killProcess(t.PID, t.ProcessStart))
		}
	}
}

func (vm *VM) tpmError() error {
	text, _ := os.ReadFile(vm.path("tpm.log")) // without it the error is short
	return fmt.Errorf("swtpm ended at once: %s", strings.TrimSpace(string(text)))
}

// endTPM ends what an earlier run left: its swtpm may still be ending, or wait
// for a QEMU that was never started.
func (vm *VM) endTPM(ctx context.Context, before tpmProcess) error {
	if !waitGone(before.PID, before.ProcessStart, tpmGrace) {
		if err := killProcess(before.PID, before.ProcessStart); err != nil {
			return err
		}
		waitGone(before.PID, before.ProcessStart, tpmLimit)
	}
	vm.shutDownTPM(ctx)
	if err := os.Remove(vm.path(tpmSocket)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("start the TPM of machine %s: %w", vm.name, err)
	}
	return nil
}

// shutDownTPM ends a swtpm that nobody remembers, by its own protocol.
func (vm *VM) shutDownTPM(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := dialUnix(ctx, vm.path(tpmSocket))
	if err != nil {
		return // nobody listens
	}
	defer conn.Close()
	const shutDown = "\x00\x00\x00\x03"
	if conn.SetDeadline(time.Now().Add(time.Second)) != nil {
		return
	}
	if _, err := conn.Write([]byte(shutDown)); err == nil {
		_, _ = conn.Read(make([]byte, 4)) // its answer, or its end
		time.Sleep(100 * time.Millisecond)
	}
}

func (s Settings) tpmArguments() []string {
	if !s.TPM {
		return nil
	}
	return []string{
		"-chardev", "socket,id=tpm,path=" + tpmSocket,
		"-tpmdev", "emulator,id=tpm0,chardev=tpm",
		"-device", "tpm-crb,tpmdev=tpm0",
	}
}
