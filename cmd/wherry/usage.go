// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"wherry.example/wherry/internal/host/ctl"
)

// usageError is a command that was called wrongly.
type usageError struct {
	cmd *cobra.Command
	err error
}

func (e *usageError) Error() string {
	line := e.cmd.UseLine()
	if e.cmd.HasSubCommands() {
		line = e.cmd.CommandPath() + " COMMAND"
	}
	return fmt.Sprintf("%s: %v\nusage: %s\n(see `%s --help`)", strings.TrimPrefix(e.cmd.CommandPath(), "wherry "), e.err, line, e.cmd.CommandPath())
}

func (e *usageError) Unwrap() error { return e.err }

// explainUsage makes every command say how it is called when it was called
// wrongly, and every group refuse a verb that it does not have.
func explainUsage(root *cobra.Command) {
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return &usageError{c, explainFlag(err)} })
	for _, c := range root.Commands() {
		explainArgs(c)
	}
}

func explainArgs(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		explainArgs(c)
	}
	if cmd.HasSubCommands() {
		cmd.Args, cmd.RunE = verbOf, func(c *cobra.Command, _ []string) error { return c.Help() }
		return
	}
	if args := cmd.Args; args != nil {
		cmd.Args = func(c *cobra.Command, list []string) error {
			err := args(c, list)
			if known := (*usageError)(nil); err != nil && !errors.As(err, &known) {
				return &usageError{c, err}
			}
			return err
		}
	}
}

// verbOf refuses what is no verb of a group.
func verbOf(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	err := fmt.Errorf("there is no %q", args[0])
	if close := cmd.SuggestionsFor(args[0]); len(close) > 0 {
		err = fmt.Errorf("there is no %q; did you mean %s?", args[0], strings.Join(close, " or "))
	}
	return &usageError{cmd, err}
}

// strict makes wrong flags and arguments end with docker's 125.
func strict(cmd *cobra.Command, args cobra.PositionalArgs) {
	wrap := func(c *cobra.Command, err error) error {
		if err == nil {
			return nil
		}
		return &ctl.ExitError{Code: exitUsage, Err: &usageError{c, explainFlag(err)}}
	}
	cmd.SetFlagErrorFunc(wrap)
	cmd.Args = func(c *cobra.Command, list []string) error { return wrap(c, args(c, list)) }
	cmd.Flags().SetInterspersed(false) // what follows the image is the container's
}

var unknownFlag = regexp.MustCompile(`unknown (?:flag: --([a-z0-9-]+)|shorthand flag: 'P')`)

// absentFlags are docker's flags that are not here, and what there is in their place.
var absentFlags = map[string]string{
	"publish-all":  "name the ports with -p",
	"privileged":   "give the container what it needs with --cap-add",
	"device":       "containers get no devices of the machine",
	"gpus":         "containers get no devices of the machine",
	"userns":       "containers have the machine's user ids",
	"log-driver":   "`wherry logs` reads what the machine keeps",
	"link":         "containers of one network find each other by name (wherry network create)",
	"volumes-from": "name the same volumes with -v",
}

// explainFlag says what there is in place of a flag that docker has.
func explainFlag(err error) error {
	m := unknownFlag.FindStringSubmatch(err.Error())
	if m == nil {
		return err
	}
	name := cmp.Or(m[1], "publish-all") // the only one with a letter
	if absentFlags[name] == "" {
		return err
	}
	return fmt.Errorf("there is no --%s: %s", name, absentFlags[name])
}

// absentVerbs are docker's verbs that are not here, and what there is in their place.
var absentVerbs = map[string]string{
	"commit":  "build an image elsewhere and load it with `wherry load`",
	"compose": "start the containers one by one with `wherry run`, on a network of their own",
	"diff":    "`wherry cp NAME:/ -` shows a container's files as a tar archive",
	"export":  "`wherry cp NAME:/ - >files.tar` writes a container's files",
	"history": "`wherry image inspect` tells what there is to know about an image",
	"import":  "`wherry load` reads archives of `docker save` and OCI layouts",
	"info":    "`wherry status` shows the machine",
	"push":    "images are only read from registries",
	"rename":  "create the container anew with another --name",
	"save":    "images are not written to archives; build or save them where they come from",
	"search":  "look at the registry's own pages",
	"swarm":   "each machine runs its own containers",
	"system":  "`wherry status` shows the machine; `wherry image|volume|network|container prune` clear up",
	"update":  "create the container anew with other limits",
}

// absentCommands answer docker's verbs that are not here. They are hidden.
func absentCommands() []*cobra.Command {
	var list []*cobra.Command
	for name, instead := range absentVerbs {
		list = append(list, &cobra.Command{Use: name, Hidden: true, DisableFlagParsing: true,
			RunE: func(*cobra.Command, []string) error {
				return fmt.Errorf("there is no `wherry %s`: %s", name, instead)
			}})
	}
	return list
}

// refuseFolder answers `wherry build .`, which means another thing to docker's users.
func refuseFolder(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return errors.New("this builds the operating system; a folder with a Go program is built and run with `wherry run ./FOLDER`")
}
