// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// monitor is a QMP session with a running QEMU.
type monitor struct {
	conn net.Conn
	in   *bufio.Reader
}

// maxMessageBytes bounds one answer of QEMU.
const maxMessageBytes = 4 << 20

// monitor connects to the machine's QEMU.
func (vm *VM) monitor(ctx context.Context) (*monitor, error) {
	conn, err := dialUnix(ctx, vm.path("qmp.sock"))
	if err != nil {
		return nil, fmt.Errorf("reach QEMU of machine %s: %w", vm.name, err)
	}
	q := &monitor{conn: conn, in: bufio.NewReaderSize(conn, maxMessageBytes)}
	if err := q.handshake(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("reach QEMU of machine %s: %w", vm.name, err)
	}
	return q, nil
}

// Execute runs a command of QEMU's machine protocol, for what this package does not offer.
func (vm *VM) Execute(ctx context.Context, command string, arguments, result any) error {
	q, err := vm.monitor(ctx)
	if err != nil {
		return err
	}
	defer q.Close()
	return q.execute(ctx, command, arguments, result)
}

func (q *monitor) Close() error { return q.conn.Close() }

// handshake reads the greeting. QEMU serves one client at a time: with another
// one connected the greeting comes when that one has gone.
func (q *monitor) handshake(ctx context.Context) error {
	q.setDeadline(ctx)
	if _, err := q.in.ReadSlice('\n'); err != nil {
		return err
	}
	return q.execute(ctx, "qmp_capabilities", nil, nil)
}

func (q *monitor) setDeadline(ctx context.Context) {
	deadline := time.Now().Add(10 * time.Second)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	// A connection that cannot take a deadline is broken; the next read says so.
	_ = q.conn.SetDeadline(deadline)
}

type reply struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// execute sends a command and waits for its answer; events in between are passed over.
func (q *monitor) execute(ctx context.Context, command string, arguments, result any) error {
	q.setDeadline(ctx)
	message := map[string]any{"execute": command}
	if arguments != nil {
		message["arguments"] = arguments
	}
	if err := json.NewEncoder(q.conn).Encode(message); err != nil {
		return err
	}
	for {
		line, err := q.in.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("QEMU command %s: %w", command, err)
		}
		var r reply
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("QEMU command %s: read answer: %w", command, err)
		}
		switch {
		case r.Error != nil:
			return fmt.Errorf("QEMU command %s: %s", command, r.Error.Desc)
		case r.Return != nil && result != nil:
			return json.Unmarshal(r.Return, result)
		case r.Return != nil:
			return nil
		}
	}
}

// human runs a command of QEMU's monitor for people and returns what it printed.
func (q *monitor) human(ctx context.Context, command string) (string, error) {
	var out string
	err := q.execute(ctx, "human-monitor-command", map[string]string{"command-line": command}, &out)
	return out, err
}

// maxSocketPath is what every system takes as the path of a socket.
const maxSocketPath = 100

// dialUnix connects to a socket also where its path is longer than the kernel
// takes (deep home directories, temporary directories of tests): then through
// a short symbolic link to its directory.
func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	if len(path) <= maxSocketPath {
		return d.DialContext(ctx, "unix", path)
	}
	tmp, err := os.MkdirTemp("", "wherry-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	link := filepath.Join(tmp, "d")
	if err := os.Symlink(filepath.Dir(path), link); err != nil {
		return nil, err
	}
	short := filepath.Join(link, filepath.Base(path))
	if len(short) > maxSocketPath {
		return nil, errors.New("the path of the temporary directory is too long for a socket: set TMPDIR to a shorter one")
	}
	return d.DialContext(ctx, "unix", short)
}
