// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"strings"

	"wherry.example/wherry/internal/format/modindex"
)

// modinfo is what a module says of itself in its ELF section .modinfo.
type modinfo struct {
	depends []string // must be loaded before it
	soft    []string // better loaded before it, if they exist
	aliases []string
}

// readModinfo parses a module's .modinfo: "key=value" strings between zeros.
func readModinfo(ko []byte) (modinfo, error) {
	f, err := elf.NewFile(bytes.NewReader(ko))
	if err != nil {
		return modinfo{}, fmt.Errorf("not a kernel module: %w", err)
	}
	s := f.Section(".modinfo")
	if s == nil {
		return modinfo{}, errors.New("not a kernel module: no .modinfo section")
	}
	data, err := s.Data()
	if err != nil {
		return modinfo{}, fmt.Errorf("read .modinfo: %w", err)
	}
	return parseModinfo(data), nil
}

func parseModinfo(data []byte) modinfo {
	var m modinfo
	for kv := range bytes.SplitSeq(data, []byte{0}) {
		key, value, _ := strings.Cut(string(kv), "=")
		if strings.ContainsAny(value, "\t\n") {
			continue // would break the index; no real module has this
		}
		switch key {
		case "depends":
			for d := range strings.SplitSeq(value, ",") {
				if d != "" {
					m.depends = append(m.depends, modindex.Canonical(d))
				}
			}
		case "softdep":
			m.soft = append(m.soft, softBefore(value)...)
		case "alias":
			m.aliases = append(m.aliases, value)
		}
	}
	return m
}

// softBefore returns the names that a softdep line ("pre: a b post: c") wants
// loaded first.
func softBefore(line string) []string {
	var out []string
	before := false
	for _, w := range strings.Fields(line) {
		switch w {
		case "pre:":
			before = true
		case "post:", "platform:":
			before = false
		default:
			if before {
				out = append(out, modindex.Canonical(w))
			}
		}
	}
	return out
}
