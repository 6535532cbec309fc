// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"strings"
	"time"

	"wherry.example/wherry/internal/linux/power"
)

// onFail is what to do when the machine can't boot.
type onFail int

const (
	onFailRestart onFail = iota
	onFailOff
	onFailHalt
)

func (o onFail) sentence() string {
	switch o {
	case onFailOff:
		return "The machine powers off in 30 seconds (wherry.onfail=poweroff)."
	case onFailHalt:
		return "The machine stays as it is (wherry.onfail=halt)."
	}
	return "The machine restarts in 30 seconds; wherry.onfail=halt on the kernel's command line keeps it here."
}

func (o onFail) end() power.End {
	if o == onFailOff {
		return power.Off
	}
	return power.Restart
}

// flags are this program's words on the kernel's command line (wherry-early reads the first two as well):
//
//	wherry.debug             say more
//	wherry.onfail=WHAT       restart (default), poweroff or halt when the boot fails
//	wherry.nocoldplug        load no modules for the hardware that is there
//	wherry.chaos=console     for tests: the console can kill wherryd (chaos.go)
//	wherry.chaos=hang        for tests: this program gets stuck before it starts wherryd
//	wherry.trial=SECONDS     how long a release on trial may take to be kept (trial.go)
type flags struct {
	debug      bool
	onFail     onFail
	noColdplug bool
	chaos      bool
	hang       bool
	trial      time.Duration // zero: trialLimit
}

// maxCommandLine is more than any kernel takes.
const maxCommandLine = 64 << 10

// parseFlags never fails: words that it does not know are the kernel's or
// wherryd's, and a machine with a slip in its command line still boots.
func parseFlags(cmdline string) flags {
	var f flags
	for _, word := range words(cmdline[:min(len(cmdline), maxCommandLine)]) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "wherry.debug":
			f.debug = value == "" || value == "1"
		case "wherry.nocoldplug":
			f.noColdplug = value == "" || value == "1"
		case "wherry.chaos":
			f.chaos, f.hang = value == "console", value == "hang"
		case "wherry.trial":
			if d, ok := trialFlag(value); ok {
				f.trial = d
			}
		case "wherry.onfail":
			switch value {
			case "halt":
				f.onFail = onFailHalt
			case "poweroff":
				f.onFail = onFailOff
			case "restart", "reboot":
				f.onFail = onFailRestart
			}
		}
	}
	return f
}

// words splits as the kernel does: at blanks that are not inside double
// quotes. What follows a lone "--" is for init, and is ours all the same.
func words(s string) []string {
	var out []string
	var word strings.Builder
	quoted, some := false, false
	flush := func() {
		if some {
			out = append(out, word.String())
		}
		word.Reset()
		some = false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"':
			quoted, some = !quoted, true
		case !quoted && (c == ' ' || c == '\t' || c == '\n' || c == 0):
			flush()
		default:
			word.WriteByte(c)
			some = true
		}
	}
	flush()
	return out
}
