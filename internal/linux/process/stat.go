// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Stat is what the kernel tells of a process in /proc/PID/stat, its owner and its command line.
type Stat struct {
	Parent  int
	State   string        // one letter
	Start   time.Duration // since boot
	CPU     time.Duration // user and system
	Memory  uint64        // resident, in bytes
	UserID  uint32        // effective
	Command string        // arguments joined by blanks; the name in brackets when there are none
}

// tick is the unit of times in stat: the kernel's USER_HZ is 100 on every architecture that Wherry runs on.
const tick = 10 * time.Millisecond

// maxCommand bounds what is read of a command line.
const maxCommand = 16 << 10

// ReadStat describes a process that is alive or a zombie.
func ReadStat(pid int) (Stat, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	b, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return Stat{}, fmt.Errorf("describe process %d: %w", pid, err)
	}
	s, err := parseStat(string(b))
	if err != nil {
		return s, fmt.Errorf("describe process %d: %w", pid, err)
	}
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil {
		s.UserID = st.Uid
	}
	if c := readCommand(dir + "/cmdline"); c != "" {
		s.Command = c
	}
	return s, nil
}

// parseStat reads the fields of proc_pid_stat(5) that Stat has.
func parseStat(stat string) (Stat, error) {
	begin, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if begin < 0 || end < begin {
		return Stat{}, errors.New("no name in its stat")
	}
	f := strings.Fields(stat[end+1:])
	if len(f) < 22 {
		return Stat{}, errors.New("its stat is short")
	}
	number := func(field int) uint64 { // numbered as in the manual page
		n, _ := strconv.ParseUint(f[field-3], 10, 64) // the kernel writes no other
		return n
	}
	return Stat{
		State: f[0], Parent: int(number(4)), Start: time.Duration(number(22)) * tick, CPU: time.Duration(number(14)+number(15)) * tick,
		Memory: number(24) * uint64(os.Getpagesize()), Command: "[" + stat[begin+1:end] + "]",
	}, nil
}

func readCommand(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, maxCommand)) // what could be read is enough
	return string(bytes.ReplaceAll(bytes.TrimRight(b, "\x00"), []byte{0}, []byte{' '}))
}

// SinceBoot is the clock that start times are in.
func SinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
