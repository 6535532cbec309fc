// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// SignalError says that a signal ended the program's work.
type SignalError struct{ Signal syscall.Signal }

func (e *SignalError) Error() string {
	return fmt.Sprintf("interrupted by %s", unix.SignalName(e.Signal))
}

// ExitCode is 128 and the signal's number, as shells have it.
func (e *SignalError) ExitCode() int { return 128 + int(e.Signal) }

// patience is how many times a signal that ends things is passed on before it
// ends this program.
const patience = 3

// Signals decides what a signal does: it ends the program's context, or goes
// to whoever asked for it.
type Signals struct {
	mu     sync.Mutex
	divert func(syscall.Signal)
	ending int
}

// HandleSignals returns a context that SIGINT, SIGTERM and SIGHUP end. A second
// signal has its usual effect, so that nothing can hang for ever.
func HandleSignals(parent context.Context) (context.Context, *Signals, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	s := &Signals{}
	in := make(chan os.Signal, 8)
	signal.Notify(in, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		for sig := range in {
			if number := sig.(syscall.Signal); !s.handle(number) {
				signal.Reset(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
				cancel(&SignalError{number})
				return
			}
		}
	}()
	return ctx, s, func() {
		signal.Stop(in)
		cancel(nil)
	}
}

// handle passes a signal on and says whether that was all.
func (s *Signals) handle(sig syscall.Signal) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.divert == nil {
		return false
	}
	if s.ending++; s.ending > patience {
		return false
	}
	s.divert(sig)
	return true
}

// Divert sends signals to f, which must not block, until restore is called.
func (s *Signals) Divert(f func(name string)) (restore func()) {
	if s == nil {
		return func() {}
	}
	more := make(chan os.Signal, 8)
	signal.Notify(more, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	s.mu.Lock()
	s.divert, s.ending = func(sig syscall.Signal) { f(unix.SignalName(sig)) }, 0
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		for {
			select {
			case sig := <-more:
				f(unix.SignalName(sig.(syscall.Signal)))
			case <-done:
				return
			}
		}
	}()
	return sync.OnceFunc(func() {
		signal.Stop(more)
		close(done)
		s.mu.Lock()
		s.divert = nil
		s.mu.Unlock()
	})
}
