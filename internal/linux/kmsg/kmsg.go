// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package kmsg writes lines to the kernel's log, from where the kernel shows
// them on every console that its log level allows. It is how a program speaks
// before any other log exists and after all of them are gone. A line that can
// not be written is lost without an error: nobody is left to be told.
package kmsg

import (
	"fmt"
	"os"
	"strings"
	"sync"
)

// Levels as the kernel numbers them.
const (
	levelErr   = 3
	levelInfo  = 6
	levelDebug = 7
)

// facilityDaemon marks lines as a program's, not the kernel's.
const facilityDaemon = 3 << 3

// maxLine is what one write to /dev/kmsg takes without being refused (LOG_LINE_MAX less its prefix).
const maxLine = 900

// Log writes lines with a prefix. The zero value drops them; Open makes one that does not.
type Log struct {
	mu     sync.Mutex
	out    *os.File
	prefix string
	debug  bool
}

// Open opens the device (usually /dev/kmsg). Lines begin with "prefix: ".
// Those of Debugf are written only with debug, and then as Info: the kernel
// shows none of its own level "debug" on a console unless told to in turn.
func Open(device, prefix string, debug bool) (*Log, error) {
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open the kernel's log: %w", err)
	}
	return &Log{out: f, prefix: prefix, debug: debug}, nil
}

// Errorf writes what went wrong.
func (l *Log) Errorf(format string, args ...any) { l.write(levelErr, format, args) }

// Infof writes what happens.
func (l *Log) Infof(format string, args ...any) { l.write(levelInfo, format, args) }

// Recordf writes what the consoles need not show, because it is shown there in
// another way.
func (l *Log) Recordf(format string, args ...any) { l.write(levelDebug, format, args) }

// Debugf writes what helps to find out why.
func (l *Log) Debugf(format string, args ...any) {
	if l != nil && l.debug {
		l.write(levelInfo, format, args)
	}
}

func (l *Log) write(level int, format string, args []any) {
	if l == nil || l.out == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	// One record per write, or the kernel would show it as another program's.
	l.out.WriteString(record(level, l.prefix, fmt.Sprintf(format, args...)))
}

// record is one line as /dev/kmsg wants it: "<priority>prefix: text\n" without
// line breaks inside.
func record(level int, prefix, text string) string {
	if len(text) > maxLine {
		text = text[:maxLine] + "…"
	}
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.TrimRight(text, "\n"))
	return fmt.Sprintf("<%d>%s: %s\n", facilityDaemon|level, prefix, text)
}
