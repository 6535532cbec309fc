// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

// flags are this program's words on the kernel's command line, a part of those
// that wherry-init knows (package pid1), read in the same way:
//
//	wherry.debug             tell each step
//	wherry.onfail=WHAT       restart (default), poweroff or halt when a step fails
type flags struct {
	debug  bool
	onFail onFail
}

// onFail is what to do when the machine can't boot.
type onFail int

const (
	onFailRestart onFail = iota
	onFailOff
	onFailHalt
)

// told are the flags of this boot, once /proc is there.
var told flags

// word is the one that is being read.
var word line

// read takes the words off a command line. It never fails: words that it does
// not know are others'.
func (f *flags) read(cmdline []byte) {
	quoted := false
	word.empty()
	for _, c := range cmdline {
		switch {
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ' ' || c == '\t' || c == '\n' || c == 0):
			f.take()
			word.empty()
		default:
			word.byte(c)
		}
	}
	f.take()
}

func (f *flags) take() {
	switch {
	case word.is("wherry.debug"), word.is("wherry.debug="), word.is("wherry.debug=1"):
		f.debug = true
	case word.begins("wherry.debug="):
		f.debug = false
	case word.is("wherry.onfail=halt"):
		f.onFail = onFailHalt
	case word.is("wherry.onfail=poweroff"):
		f.onFail = onFailOff
	case word.is("wherry.onfail=restart"), word.is("wherry.onfail=reboot"):
		f.onFail = onFailRestart
	}
}
