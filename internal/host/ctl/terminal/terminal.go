// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Package terminal is the user's terminal as interactive commands need it: raw
// mode that always ends, its size and changes of it, and the keys that leave a
// session. It owns the terminal's mode between Raw and the restore that Raw
// returned; restoring twice does no harm.
package terminal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/term"
	"wherry.example/wherry/api/wherryv1"
)

// descriptor returns the file descriptor of a stream that is a file.
func descriptor(stream any) (int, bool) {
	f, ok := stream.(interface{ Fd() uintptr })
	if !ok {
		return -1, false
	}
	return int(f.Fd()), true
}

// Is says whether a stream is a terminal.
func Is(stream any) bool {
	fd, ok := descriptor(stream)
	return ok && term.IsTerminal(fd)
}

// Raw puts a terminal into raw mode.
func Raw(stream any) (restore func(), err error) {
	fd, ok := descriptor(stream)
	if !ok {
		return nil, errors.New("set the terminal's mode: it is not a terminal")
	}
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("set the terminal's mode: %w", err)
	}
	return sync.OnceFunc(func() { _ = term.Restore(fd, before) }), nil // a terminal that is gone needs no restoring
}

// Size returns a terminal's size; nil when it has none.
func Size(stream any) *wherryv1.TerminalSize {
	fd, ok := descriptor(stream)
	if !ok {
		return nil
	}
	columns, rows, err := term.GetSize(fd)
	if err != nil || columns <= 0 || rows <= 0 {
		return nil
	}
	return &wherryv1.TerminalSize{Columns: uint32(columns), Rows: uint32(rows)}
}

// Resizes calls f with the terminal's size each time it changes, until ctx ends.
func Resizes(ctx context.Context, stream any, f func(*wherryv1.TerminalSize)) {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, syscall.SIGWINCH)
	go func() {
		defer signal.Stop(changes)
		for {
			select {
			case <-ctx.Done():
				return
			case <-changes:
				if size := Size(stream); size != nil {
					f(size)
				}
			}
		}
	}()
}

// DefaultDetachKeys leave a session without ending what runs in it.
const DefaultDetachKeys = "ctrl-p,ctrl-q"

// ParseDetachKeys reads keys as docker names them: "ctrl-p,ctrl-q" or "a,b".
func ParseDetachKeys(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	var keys []byte
	for _, name := range strings.Split(text, ",") {
		letter, ctrl := strings.CutPrefix(name, "ctrl-")
		switch {
		case !ctrl && len(name) == 1:
			keys = append(keys, name[0])
		case ctrl && len(letter) == 1 && letter[0] >= 'a' && letter[0] <= 'z':
			keys = append(keys, letter[0]-'a'+1)
		case ctrl && len(letter) == 1 && strings.Contains(`@[\]^_`, letter):
			keys = append(keys, letter[0]-'@')
		default:
			return nil, fmt.Errorf("--detach-keys %q: %q is not a key: want a letter or ctrl-LETTER", text, name)
		}
	}
	return keys, nil
}

// ErrDetached ends the input when the detach keys were pressed.
var ErrDetached = errors.New("detached")

// DetachReader passes input on until the keys were pressed in a row.
func DetachReader(r io.Reader, keys []byte) io.Reader {
	if len(keys) == 0 {
		return r
	}
	return &detachReader{r: r, keys: keys}
}

type detachReader struct {
	r       io.Reader
	keys    []byte
	matched int    // of keys, held back
	ready   []byte // to be handed out
	err     error
}

func (d *detachReader) Read(p []byte) (int, error) {
	buf := make([]byte, len(p))
	for len(d.ready) == 0 && d.err == nil {
		n, err := d.r.Read(buf)
		d.take(buf[:n])
		if d.err == nil && err != nil {
			d.ready = append(d.ready, d.keys[:d.matched]...)
			d.matched, d.err = 0, err
		}
	}
	if len(d.ready) == 0 {
		return 0, d.err
	}
	n := copy(p, d.ready)
	d.ready = d.ready[n:]
	return n, nil
}

func (d *detachReader) take(input []byte) {
	for _, b := range input {
		held := append(bytes.Clone(d.keys[:d.matched]), b)
		// Hand out what can no longer be the beginning of the keys.
		for len(held) > 0 && !bytes.HasPrefix(d.keys, held) {
			d.ready = append(d.ready, held[0])
			held = held[1:]
		}
		if d.matched = len(held); d.matched == len(d.keys) {
			d.matched, d.err = 0, ErrDetached
			return
		}
	}
}
