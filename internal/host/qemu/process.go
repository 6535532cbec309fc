// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// processStart tells when a process started, in words that differ between any
// two processes that had the same pid. It is an error when there is none.
func processStart(pid int) (string, error) {
	if runtime.GOOS == "linux" {
		return processStartLinux(pid)
	}
	out, err := exec.Command("ps", "-o", "stat=,lstart=", "-p", strconv.Itoa(pid)).Output()
	text := strings.TrimSpace(string(out))
	if err != nil || text == "" || strings.HasPrefix(text, "Z") {
		return "", fmt.Errorf("process %d does not run", pid)
	}
	_, start, _ := strings.Cut(text, " ")
	return strings.TrimSpace(start), nil
}

func processStartLinux(pid int) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The command's name is in parentheses and may hold anything: fields count from the last one.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 {
		return "", fmt.Errorf("read /proc/%d/stat: too short", pid)
	}
	if state := fields[0][0]; state == 'Z' || state == 'X' {
		return "", fmt.Errorf("process %d has ended", pid)
	}
	return string(fields[19]), nil
}

func processAlive(pid int, start string) bool {
	if pid <= 1 || start == "" {
		return false
	}
	got, err := processStart(pid)
	return err == nil && got == start
}

// killProcess ends the process that pid and start name, and no other.
func killProcess(pid int, start string) error {
	// On Linux the handle pins the process: checking after taking it leaves no
	// moment in which the pid could pass to another one.
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil
	}
	defer p.Release()
	if !processAlive(pid, start) {
		return nil
	}
	if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end QEMU (pid %d): %w", pid, err)
	}
	return nil
}

// waitGone waits until the process has ended.
func waitGone(pid int, start string, limit time.Duration) bool {
	for deadline := time.Now().Add(limit); processAlive(pid, start); {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(20 * time.Millisecond)
	}
	return true
}

// lock keeps other wherry processes from changing this machine.
func (vm *VM) lock() (unlock func(), err error) {
	f, err := os.OpenFile(vm.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock machine %s: %w", vm.name, err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			f.Close()
			return nil, fmt.Errorf("lock machine %s: %w (another wherry command is busy with it)", vm.name, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
