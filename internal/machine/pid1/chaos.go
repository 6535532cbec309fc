// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"bufio"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/machine/supervise"
)

// killCommand is the line that kills wherryd.
const killCommand = "kill wherryd"

// chaos is how tests kill wherryd at moments of their choice: with
// wherry.chaos=console on the kernel's command line, the line "kill wherryd"
// on the console's input does it, by SIGKILL. Who can set a machine's command
// line and type on its console owns the machine anyway; without the flag
// nothing reads the console.
func (m *machine) chaos() error {
	console, err := os.OpenFile("/dev/console", os.O_RDONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer console.Close()
	return eachKill(console, func() {
		c := m.daemon.Load()
		if c == nil || c.Signal(unix.SIGKILL) != nil {
			m.notice("chaos found no wherryd to kill")
			return
		}
		m.notice("chaos killed wherryd %d", c.Pid())
	})
}

// eachKill calls kill for each line that asks for it, until the input ends.
func eachKill(in io.Reader, kill func()) error {
	s := bufio.NewScanner(in)
	for s.Scan() {
		if s.Text() == killCommand {
			kill()
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("read the console: %w", err)
	}
	return nil
}

// policy is how wherryd is kept. Under chaos the pause before a restart does
// not grow: dying early is what the test wants.
func (m *machine) policy() supervise.Policy {
	p := policy
	if m.flags.chaos {
		p.MaxDelay = p.FirstDelay
	}
	return p
}
