// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package nettest runs a package's tests in a network of their own.
//
// Main, called from TestMain, starts the test binary again inside a fresh
// network namespace, where the whole process is the machine and nothing it
// does to links, rules or sysctls reaches the computer it runs on. Tests that
// need it call Require, which skips them for users who may not make
// namespaces. Only tests import this package.
package nettest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
)

const inside = "WHERRY_NETTEST_INSIDE"

// Main runs the tests and returns the exit code.
func Main(m *testing.M) int {
	if os.Getenv(inside) != "" || os.Geteuid() != 0 {
		return m.Run()
	}
	runtime.LockOSThread() // the child is told of the death of this thread, not of the process
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "start tests in a network namespace:", err)
		return 1
	}
	return 0
}

// Require skips the test unless it runs in a network of its own.
func Require(t testing.TB) {
	t.Helper()
	if os.Getenv(inside) == "" {
		t.Skip("needs root, to make network namespaces")
	}
}
