// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pid1

import (
	"errors"
	"fmt"
	"strings"

	"wherry.example/wherry/internal/linux/kmsg"
	"wherry.example/wherry/internal/linux/module"
)

// Modprobe is what the kernel runs (as /sbin/modprobe -q -- NAME) when it needs
// a module that nobody loaded: NAME is a module or an alias such as fs-xfs,
// net-pf-10 or crypto-aes. It never waits and never asks. The kernel asks for
// a lot that does not exist, so only what exists and does not load is logged.
func Modprobe(args []string) error {
	names := modprobeNames(args)
	if len(names) == 0 {
		return errors.New("modprobe: which module?")
	}
	l, err := module.Open(modules)
	if err != nil {
		return fmt.Errorf("modprobe: %w", err)
	}
	for _, name := range names {
		found := l.Match(name)
		if len(found) == 0 && !l.Known(name) {
			return fmt.Errorf("modprobe: no module for %q in this image", name)
		}
		if err := l.Load(found...); err != nil {
			tell(err)
			return fmt.Errorf("modprobe: %w", err)
		}
	}
	return nil
}

func tell(err error) {
	if log, openErr := kmsg.Open("/dev/kmsg", "modprobe", false); openErr == nil {
		log.Errorf("%v", err)
	}
}

// maxModprobeNames bounds what one call is asked for; the kernel asks for one.
const maxModprobeNames = 16

// modprobeNames drops the flags: each of them asks for what is done anyway, or
// for nothing that the kernel ever asks.
func modprobeNames(args []string) []string {
	var out []string
	flags := true
	for _, a := range args {
		switch {
		case flags && a == "--":
			flags = false
		case flags && strings.HasPrefix(a, "-"):
		case a != "" && len(out) < maxModprobeNames:
			out = append(out, a)
		}
	}
	return out
}
