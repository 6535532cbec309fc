// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package bootcount reads and makes the names by which systemd-boot counts how
// often it may still start a file: NAME+LEFT-DONE.efi, or NAME+LEFT.efi before
// the first start. A file without a counter is good; one with nothing left is
// bad and comes after all others. The loader renames a file before it starts
// it, so that a file which does not even load counts too. Nothing here does I/O.
package bootcount

import (
	"fmt"
	"strconv"
	"strings"
)

const (
	suffix = ".efi"
	// maxTries bounds both numbers: a name is read from a disk that anybody may have written.
	maxTries = 999
	maxName  = 255
)

// Name is a file's name taken apart.
type Name struct {
	Stem       string // without counter and suffix
	Counted    bool
	Left, Done int
}

// Bad tells that the loader does not start the file by itself any more.
func (n Name) Bad() bool { return n.Counted && n.Left == 0 }

func (n Name) String() string {
	switch {
	case !n.Counted:
		return n.Stem + suffix
	case n.Done == 0:
		return fmt.Sprintf("%s+%d%s", n.Stem, n.Left, suffix)
	}
	return fmt.Sprintf("%s+%d-%d%s", n.Stem, n.Left, n.Done, suffix)
}

// Parse takes a file's name apart. What looks like a counter and is none
// belongs to the stem, as it does for the loader. Names that the loader would
// not take are not ok.
func Parse(file string) (n Name, ok bool) {
	cut := len(file) - len(suffix)
	if cut <= 0 || len(file) > maxName || !strings.EqualFold(file[cut:], suffix) || strings.ContainsAny(file, `/\`) || file[0] == '.' {
		return Name{}, false
	}
	n.Stem = file[:cut]
	plus := strings.LastIndexByte(n.Stem, '+')
	if plus <= 0 {
		return n, true
	}
	left, done, both := strings.Cut(n.Stem[plus+1:], "-")
	l, okLeft := number(left)
	d, okDone := number(done)
	if !okLeft || both && !okDone {
		return n, true
	}
	return Name{Stem: n.Stem[:plus], Counted: true, Left: l, Done: d}, true
}

func number(s string) (int, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n <= maxTries
}

// Same tells whether two names, each with or without a counter and in letters
// of any size, are the same file at different counts.
func Same(a, b string) bool {
	x, ok := Parse(a)
	y, okToo := Parse(b)
	return ok && okToo && strings.EqualFold(x.Stem, y.Stem)
}

// Trial tells whether the file that runs is one that is counted: selected is
// what the loader's variable LoaderEntrySelected says, counted the path in
// LoaderBootCountPath. When a file did not load, the latter still names it
// although an older one runs.
func Trial(selected, counted string) bool {
	return selected != "" && Same(selected, Base(counted))
}

// Base is the last part of a path of the firmware's.
func Base(path string) string { return path[strings.LastIndexByte(path, '\\')+1:] }
