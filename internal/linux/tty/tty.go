// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package tty finds and writes the machine's consoles. /dev/console leads only
// to the last one named on the kernel's command line; a person may look at any
// of them, so what people should see is written to each.
package tty

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// writeTimeout bounds one write: a serial line whose far end holds flow
// control would otherwise hold its writer for ever.
const writeTimeout = time.Second

// Active returns the devices of the kernel's consoles, in the order in which
// the kernel lists them, or /dev/console when it lists none.
func Active(sysfs string) []string {
	text, err := os.ReadFile(filepath.Join(sysfs, "class/tty/console/active"))
	if err != nil {
		return []string{"/dev/console"}
	}
	return devices(string(text))
}

func devices(active string) []string {
	var out []string
	for _, name := range strings.Fields(active) {
		if dev := "/dev/" + filepath.Base(name); !slices.Contains(out, dev) {
			out = append(out, dev)
		}
	}
	if out == nil {
		return []string{"/dev/console"}
	}
	return out
}

// Consoles writes to several devices. Those that do not open or do not take
// the bytes in time are passed over.
type Consoles struct {
	Devices []string
}

// Write gives p to every device. It reports success whatever happens: there
// is nobody to tell but the consoles.
func (c Consoles) Write(p []byte) (int, error) {
	for _, dev := range c.Devices {
		writeTo(dev, p)
	}
	return len(p), nil
}

func writeTo(dev string, p []byte) {
	f, err := os.OpenFile(dev, os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if f.SetWriteDeadline(time.Now().Add(writeTimeout)) != nil {
		// Not pollable: written without a bound, as a plain file is.
		f.Write(p)
		return
	}
	f.Write(p)
}
