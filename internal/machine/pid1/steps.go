// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"errors"
	"os"
	"strconv"

	"wherry.example/wherry/internal/linux/cgroup"
	"wherry.example/wherry/internal/linux/power"
)

// setting writes a kernel setting.
type setting struct{ file, value string }

func (s setting) Do() error { return os.WriteFile(s.file, []byte(s.value), 0) }

// directory makes a directory.
type directory struct {
	path string
	mode os.FileMode
}

func (d directory) String() string { return "make " + d.path }
func (d directory) Do() error {
	if err := os.Mkdir(d.path, d.mode); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

// delegate hands a control group's controllers to the groups below it.
type delegate struct{ group cgroup.Group }

func (d delegate) String() string { return "delegate all controllers of " + string(d.group) }
func (d delegate) Do() error      { return d.group.Delegate() }

// group makes a control group, and puts a process in it.
type group struct {
	name      cgroup.Group
	memoryMin string
	pid       int
}

func (g group) String() string { return "control group " + string(g.name) }
func (g group) Do() error {
	if err := g.name.Make(); err != nil {
		return err
	}
	var errs []error
	if g.memoryMin != "" {
		errs = append(errs, g.name.Set("memory.min", g.memoryMin))
	}
	if g.pid != 0 {
		errs = append(errs, g.name.Enter(g.pid))
	}
	return errors.Join(errs...)
}

// score sets how willingly the OOM killer takes a process.
type score struct{ pid, value int }

func (s score) String() string { return "OOM score " + strconv.Itoa(s.value) }
func (s score) Do() error      { return protect(s.pid, s.value) }

// ctrlAltDel makes the three keys a signal.
type ctrlAltDel struct{}

func (ctrlAltDel) String() string { return "take over ctrl-alt-delete" }
func (ctrlAltDel) Do() error      { return power.CtrlAltDelSignals() }
