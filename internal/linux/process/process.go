// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package process reads what the kernel tells of processes, and waits for
// children without losing who they were.
package process

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Exit is a child that ended. Pid and Start together name one process for
// the whole run of a machine: pids are used again, start times are not.
type Exit struct {
	Pid    int
	Start  uint64 // in clock ticks since boot, as in /proc/PID/stat; 0: unknown
	Status unix.WaitStatus
}

// Next reaps one child that has ended. It returns false when there is none now.
func Next() (Exit, bool) {
	pid := peek()
	if pid <= 0 {
		return Exit{}, false
	}
	// Only while the child is a zombie can its start time still be read.
	start, _ := StartTime(pid)
	e := Exit{Pid: pid, Start: start}
	for {
		got, err := unix.Wait4(pid, &e.Status, unix.WNOHANG, nil)
		if !errors.Is(err, unix.EINTR) {
			return e, err == nil && got == pid
		}
	}
}

// sigchldInfo is siginfo_t as waitid fills it on 64-bit machines.
type sigchldInfo struct {
	signo, errno, code, _ int32
	pid                   int32
	_                     [108]byte
}

// peek returns the pid of a child that has ended, without reaping it, or 0.
func peek() int {
	for {
		var info sigchldInfo
		err := unix.Waitid(unix.P_ALL, 0, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0
		}
		return int(info.pid)
	}
}

// StartTime returns when the process began, in clock ticks since boot.
func StartTime(pid int) (uint64, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, fmt.Errorf("read the start time of process %d: %w", pid, err)
	}
	return parseStart(string(stat))
}

// startField is the place of starttime among the fields after the name.
const startField = 22 - 3

// parseStart finds the start time in a line of /proc/PID/stat. The name in
// parentheses may hold anything, parentheses and blanks too.
func parseStart(stat string) (uint64, error) {
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, errors.New("read a process's start time: no name in its stat")
	}
	f := strings.Fields(stat[end+1:])
	if len(f) <= startField {
		return 0, errors.New("read a process's start time: its stat is short")
	}
	return strconv.ParseUint(f[startField], 10, 64)
}

// Alive lists the processes that run programs: not kernel threads, not zombies, not PID 1.
func Alive() []int {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	var out []int
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil || pid == 1 {
			continue
		}
		// A kernel thread and a zombie have no program.
		if _, err := os.Readlink("/proc/" + n + "/exe"); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// Name returns what the kernel calls the process, for people.
func Name(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(b))
}

// Describe says in words how a process ended.
func Describe(s unix.WaitStatus) string {
	switch {
	case s.Exited():
		return "exit code " + strconv.Itoa(s.ExitStatus())
	case s.Signaled():
		return "killed by " + unix.SignalName(s.Signal())
	}
	return fmt.Sprintf("wait status %#x", uint32(s))
}
