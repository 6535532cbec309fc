// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/linux/process"
	"wherry.example/wherry/internal/machine/supervise"
)

// The lines that kill, and the program of the shim.
const (
	killDaemon  = "kill wherryd"
	killShim    = "kill wherry-shim"
	shimCommand = "/bin/wherry-shim serve "
)

// chaos is how tests kill wherryd and the shim at moments of their choice: with
// wherry.chaos=console on the kernel's command line, the lines "kill wherryd" and
// "kill wherry-shim" on the console's input do it, by SIGKILL. Who can set a machine's command
// line and type on its console owns the machine anyway; without the flag
// nothing reads the console.
func (m *machine) chaos() error {
	console, err := os.OpenFile("/dev/console", os.O_RDONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer console.Close()
	return eachKill(console, map[string]func(){killDaemon: m.killDaemon, killShim: m.killShim})
}

func (m *machine) killDaemon() {
	c := m.daemon.Load()
	if c == nil || c.Signal(unix.SIGKILL) != nil {
		m.notice("chaos found no wherryd to kill")
		return
	}
	m.notice("chaos killed wherryd %d", c.Pid())
}

func (m *machine) killShim() {
	for _, pid := range process.Alive() {
		s, err := process.ReadStat(pid)
		if err == nil && strings.HasPrefix(s.Command, shimCommand) && unix.Kill(pid, unix.SIGKILL) == nil {
			m.notice("chaos killed wherry-shim %d", pid)
			return
		}
	}
	m.notice("chaos found no wherry-shim to kill")
}

// eachKill calls what each line asks for, until the input ends.
func eachKill(in io.Reader, kills map[string]func()) error {
	s := bufio.NewScanner(in)
	for s.Scan() {
		if kill := kills[s.Text()]; kill != nil {
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
