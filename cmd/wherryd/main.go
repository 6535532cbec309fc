// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Command wherryd is the machine's daemon. PID 1 starts it, and starts it again
// when it ends; SIGTERM ends it in order, containers first.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"wherry.example/wherry/internal/machine"
	"wherry.example/wherry/internal/machine/observe"
	"wherry.example/wherry/internal/scavenge"
	"wherry.example/wherry/internal/version"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "wherryd:", err)
		os.Exit(1)
	}
}

func run() error {
	// Small machines are the point: collect at half the growth that Go's default allows.
	debug.SetGCPercent(50)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go scavenge.AtRest(ctx)
	ring := observe.NewLog()
	log := slog.New(ring.Handler(slog.LevelInfo, os.Stderr))
	return machine.Run(ctx, machine.Options{Version: version.Version, Log: log, Ring: ring})
}
