// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package cgroup makes control groups of version 2 and puts processes and
// bounds in them.
package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Root is where the hierarchy is mounted.
const Root = "/sys/fs/cgroup"

// Group is a control group by its path below Root.
type Group string

func (g Group) file(name string) string { return filepath.Join(Root, string(g), name) }

// Make makes the group; one that exists is kept.
func (g Group) Make() error {
	if err := os.MkdirAll(g.file(""), 0o755); err != nil {
		return fmt.Errorf("make control group %s: %w", g, err)
	}
	return nil
}

// Delegate enables every controller that the group has for the groups below it.
// Each is tried by itself: one that the kernel refuses does not take the others along.
func (g Group) Delegate() error {
	text, err := os.ReadFile(g.file("cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read the controllers of %s: %w", g, err)
	}
	names := strings.Fields(string(text))
	if g.Set("cgroup.subtree_control", strings.Join(enable(names), " ")) == nil {
		return nil
	}
	for _, name := range enable(names) {
		err = g.Set("cgroup.subtree_control", name)
	}
	return err
}

func enable(controllers []string) []string {
	out := make([]string, len(controllers))
	for i, c := range controllers {
		out[i] = "+" + c
	}
	return out
}

// Set writes one of the group's files.
func (g Group) Set(file, value string) error {
	if err := os.WriteFile(g.file(file), []byte(value), 0); err != nil {
		return fmt.Errorf("set %s of control group %s: %w", file, g, err)
	}
	return nil
}

// Enter moves a process into the group.
func (g Group) Enter(pid int) error { return g.Set("cgroup.procs", strconv.Itoa(pid)) }

// Open opens the group's directory, for starting processes in it.
func (g Group) Open() (*os.File, error) {
	f, err := os.Open(g.file(""))
	if err != nil {
		return nil, fmt.Errorf("open control group %s: %w", g, err)
	}
	return f, nil
}
