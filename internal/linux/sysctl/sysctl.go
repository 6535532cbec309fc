// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package sysctl reads and writes kernel settings by name.
package sysctl

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// dir is where the kernel shows its settings.
const dir = "/proc/sys"

// maxName and maxValue bound what a configuration may ask for.
const (
	maxName  = 256
	maxValue = 4096
)

// Check says what is wrong with a setting before the kernel is asked.
func Check(name, value string) error {
	_, err := path(name)
	if err == nil && (len(value) > maxValue || strings.ContainsAny(value, "\x00\n")) {
		err = fmt.Errorf("sysctl %s: the value is not one line of at most %d bytes", name, maxValue)
	}
	return err
}

// path turns a.b.c into /proc/sys/a/b/c. As in sysctl(8), a name with a slash
// is a path already, whose parts may hold dots (net/ipv4/conf/eth0.100/forwarding).
func path(name string) (string, error) {
	rel := name
	if !strings.Contains(name, "/") {
		rel = strings.ReplaceAll(name, ".", "/")
	}
	for part := range strings.SplitSeq(rel, "/") {
		if part == "" || part == "." || part == ".." || len(name) > maxName || strings.ContainsFunc(part, odd) {
			return "", fmt.Errorf("%.64q is not the name of a sysctl", name)
		}
	}
	if !strings.Contains(rel, "/") {
		return "", fmt.Errorf("%.64q is not the name of a sysctl", name)
	}
	return filepath.Join(dir, rel), nil
}

func odd(r rune) bool { return r <= ' ' || r > '~' || r == '\\' }

// Get returns a setting's value, with blanks folded as sysctl(8) prints it.
func Get(name string) (string, error) {
	p, err := path(name)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(p)
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %w", name, err)
	}
	return fold(string(text)), nil
}

// Set writes a setting, unless it has the value already: some can't be
// written again once they are set.
func Set(name, value string) error {
	if err := Check(name, value); err != nil {
		return err
	}
	if now, err := Get(name); err == nil && now == fold(value) {
		return nil
	}
	p, _ := path(name)
	if err := os.WriteFile(p, []byte(value+"\n"), 0); err != nil {
		return fmt.Errorf("set sysctl %s to %s: %w", name, value, err)
	}
	return nil
}

func fold(s string) string { return strings.Join(strings.Fields(s), " ") }
