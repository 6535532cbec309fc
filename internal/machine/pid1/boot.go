// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"wherry.example/wherry/internal/linux/kmsg"
	"wherry.example/wherry/internal/linux/uevent"
)

// boot does the tables. It returns an error only if there is no machine to go on with.
func (m *machine) boot() error {
	m.openConsole()
	cmdline, _ := os.ReadFile("/proc/cmdline")
	m.flags = parseFlags(string(cmdline))
	m.openLog()
	m.startSoftDog()
	for _, s := range []stage{systemStage, kernelPartsStage} {
		if err := m.do(s); err != nil {
			return err
		}
	}
	var err error
	if m.events, err = uevent.Listen(); err != nil {
		m.log.Errorf("%v", err)
	}
	if m.flags.noColdplug {
		m.modules = nil
		m.settled()
	} else {
		m.coldplug()
	}
	m.startDogs() // drivers take their time on a busy computer
	return nil
}

// do does a stage's steps.
func (m *machine) do(s stage) error {
	for _, step := range s.steps {
		m.log.Debugf("%s", step)
		err := step.Do()
		switch {
		case err == nil:
		case s.essential:
			return fmt.Errorf("%s: %s: %w\n%s", s.name, step, err, s.hint)
		default:
			m.log.Errorf("%s: %s: %v", s.name, step, err)
		}
	}
	return nil
}

// openConsole gives this program the console as standard input and output,
// for the Go runtime's last words if nothing else.
func (m *machine) openConsole() {
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // the kernel has none; /dev/kmsg remains
	}
	for std := range 3 {
		unix.Dup3(fd, std, 0)
	}
	if fd > 2 {
		unix.Close(fd)
	}
}

func (m *machine) openLog() {
	log, err := kmsg.Open("/dev/kmsg", "wherry-init", m.flags.debug)
	if err != nil {
		fmt.Fprintf(os.Stderr, "wherry-init: %v; going on without a log\n", err)
		return
	}
	m.log = log
}
