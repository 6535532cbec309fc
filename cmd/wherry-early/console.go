// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import "unsafe"

// line is a text of bounded length; what is over is left out.
type line struct {
	n    uint
	text [512]byte
}

func (l *line) empty() { l.n = 0 }

func (l *line) byte(c byte) {
	if l.n < uint(len(l.text)) {
		l.text[l.n] = c
		l.n++
	}
}

func (l *line) add(s string) {
	for i := range len(s) {
		l.byte(s[i])
	}
}

func (l *line) addLine(other *line) {
	for i := range other.text {
		if uint(i) < other.n {
			l.byte(other.text[i])
		}
	}
}

func (l *line) number(n uintptr) {
	if n > 9 {
		l.number(n / 10)
	}
	l.byte('0' + byte(n%10))
}

// begins says whether the text begins with s.
func (l *line) begins(s string) bool {
	for i := range len(s) {
		if uint(i) >= l.n || i >= len(l.text) || l.text[i] != s[i] {
			return false
		}
	}
	return true
}

func (l *line) is(s string) bool { return l.n == uint(len(s)) && l.begins(s) }

// Levels of the kernel's log, with the facility of a daemon. All consoles show
// emergencies, whatever the kernel was told to show there.
const (
	emergency = "<24>"
	failure   = "<27>"
	notice    = "<30>"
)

// log is the kernel's log, where that can be opened, or else the console that the kernel gave.
var log struct {
	file   uintptr
	kernel bool
}

func openLog() {
	log.file = 2
	if fd := open(first("/dev/kmsg"), writeOnly); errno(fd) == 0 {
		log.file, log.kernel = fd, true
	}
}

// message is what say says.
var message line

// say writes a line: a text, and what is being done and why it failed if there is an error.
func say(level, text string, about *line, err uintptr) {
	message.empty()
	if log.kernel {
		message.add(level)
	}
	message.add(text)
	if about != nil {
		message.addLine(about)
	}
	if err != 0 {
		message.add(": ")
		message.add(meaning(err))
		message.add(" (error ")
		message.number(err)
		message.byte(')')
	}
	message.byte('\n')
	call(sysWrite, log.file, uintptr(unsafe.Pointer(&message.text)), uintptr(message.n), 0, 0)
}

// meaning puts into words what these few calls can end with.
func meaning(err uintptr) string {
	switch err {
	case 1:
		return "not permitted"
	case 2:
		return "it does not exist"
	case 5:
		return "it cannot be read"
	case 6, 19:
		return "the kernel does not know it"
	case 8:
		return "it is no program or module of this kernel"
	case 12:
		return "there is not enough memory"
	case 13:
		return "no access"
	case 16:
		return "it is in use"
	case 22:
		return "it is damaged, or not what it should be"
	case 129:
		return "its signature is missing or of another key"
	}
	return "the kernel refused"
}
