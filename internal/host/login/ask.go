// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package login

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"
)

// Asker asks the user.
type Asker interface {
	Passphrase(ctx context.Context, prompt string) ([]byte, error)
	Confirm(ctx context.Context, question string) (bool, error)
}

// Terminal returns who asks on the controlling terminal, whatever the standard
// streams are; nil when there is none.
func Terminal() Asker {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return tty{f}
}

type tty struct{ f *os.File }

func (t tty) Passphrase(ctx context.Context, prompt string) ([]byte, error) {
	fd := int(t.f.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, fmt.Errorf("prepare the terminal: %w", err)
	}
	fmt.Fprint(t.f, prompt)
	phrase, err := interruptible(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
	fmt.Fprintln(t.f)
	if ctx.Err() != nil {
		_ = term.Restore(fd, before) // the read still waits: the echo must come back without it
	}
	return phrase, err
}

func (t tty) Confirm(ctx context.Context, question string) (bool, error) {
	fmt.Fprint(t.f, question+" (yes/no) ")
	answer, err := interruptible(ctx, func() (string, error) { return bufio.NewReader(t.f).ReadString('\n') })
	if err != nil {
		return false, fmt.Errorf("ask on the terminal: %w", err)
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "yes" || answer == "y", nil
}

// interruptible returns when f does or when ctx ends; f may then go on waiting
// for input until the program ends.
func interruptible[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}
