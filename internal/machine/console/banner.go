// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package console

import (
	"fmt"
	"strings"
)

// Info is what there is to know of a machine at a glance.
type Info struct {
	Name        string
	Version     string
	Addresses   []string // of the machine's links, without prefix lengths
	Port        int      // of the API
	Fingerprint string   // of the machine's key: "SHA256:…"
	Persistent  bool     // state outlives a restart
	StateDevice string
	// Problems are what subsystems that are not well say of themselves.
	Problems []string
}

// Bounds of what is printed.
const (
	maxLine      = 78
	maxAddresses = 8
	maxProblems  = 6
)

// banner is the facts, one to a line.
func banner(i Info) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n  Wherry %s on %s\n\n", clean(i.Version, 30), clean(i.Name, 40))
	line := func(what, value string) { fmt.Fprintf(&b, "  %-10s %s\n", what, clean(value, maxLine-13)) }
	for n, a := range addresses(i) {
		what := ""
		if n == 0 {
			what = "address"
		}
		line(what, a)
	}
	line("key", i.Fingerprint)
	line("state", state(i))
	for n, p := range i.Problems {
		if n == maxProblems {
			line("problem", fmt.Sprintf("and %d more: wherry status", len(i.Problems)-n))
			break
		}
		line("problem", p)
	}
	b.WriteByte('\n')
	return b.String()
}

func addresses(i Info) []string {
	if len(i.Addresses) == 0 {
		return []string{"none yet"}
	}
	out := make([]string, 0, len(i.Addresses))
	for n, a := range i.Addresses {
		if n == maxAddresses {
			return append(out, fmt.Sprintf("and %d more", len(i.Addresses)-n))
		}
		if strings.Contains(a, ":") {
			a = "[" + a + "]"
		}
		out = append(out, fmt.Sprintf("%s:%d", a, i.Port))
	}
	return out
}

func state(i Info) string {
	if !i.Persistent {
		return "in memory: nothing outlives a restart"
	}
	if i.StateDevice == "" {
		return "persistent"
	}
	return "persistent, on " + i.StateDevice
}

// ready is the line that `wherry vm` and the tests wait for. Its form is a contract.
func ready(i Info) string {
	kind := "memory"
	if i.Persistent {
		kind = "persistent"
	}
	return fmt.Sprintf("wherry: ready name=%s api=:%d key=%s version=%s state=%s\n",
		word(i.Name), i.Port, word(i.Fingerprint), word(i.Version), kind)
}

// word makes a value that has no blanks.
func word(s string) string {
	s = strings.Join(strings.Fields(clean(s, 128)), "-")
	if s == "" {
		return "-"
	}
	return s
}

// step is a line of the boot: what and how.
func step(what, how string) string {
	return fmt.Sprintf("wherry: %-10s %s\n", clean(what, 20), clean(how, maxLine-19))
}
