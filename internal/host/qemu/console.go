// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"
)

// Ready is what a machine says about itself, in one line on its console, when
// its API answers:
//
//	wherry: ready name=NAME api=:9473 key=SHA256:… version=V state=persistent|memory
type Ready struct {
	Name        string `json:"name"`
	Fingerprint string `json:"fingerprint"`
	Version     string `json:"version"`
	State       string `json:"state"`
}

var (
	readyRE       = regexp.MustCompile(`wherry: ready (name=[^\r\n]{1,1000})\r?\n`)
	fingerprintRE = regexp.MustCompile(`^SHA256:[A-Za-z0-9+/]{43}$`)
)

// ParseReady finds the last line of readiness in a console's text.
func ParseReady(console []byte) (Ready, bool) {
	all := readyRE.FindAllSubmatch(console, -1)
	for i := len(all) - 1; i >= 0; i-- {
		if r, ok := parseReadyFields(string(all[i][1])); ok {
			return r, true
		}
	}
	return Ready{}, false
}

func parseReadyFields(text string) (Ready, bool) {
	var r Ready
	for field := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "name":
			r.Name = value
		case "key":
			r.Fingerprint = value
		case "version":
			r.Version = value
		case "state":
			r.State = value
		}
	}
	return r, fingerprintRE.MatchString(r.Fingerprint)
}

// maxConsoleBytes bounds how much of a console is read at once.
const maxConsoleBytes = 8 << 20

// consoleFrom reads the console's log from an offset on, at most the last maxConsoleBytes.
func (vm *VM) consoleFrom(offset int64) ([]byte, error) {
	f, err := os.Open(vm.path("console.log"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	offset = max(offset, info.Size()-maxConsoleBytes)
	return io.ReadAll(io.NewSectionReader(f, offset, info.Size()-offset))
}

// ConsoleLog returns what the machine printed since QEMU was last started.
func (vm *VM) ConsoleLog() ([]byte, error) {
	var r Run
	if err := vm.readJSON("run.json", &r); err != nil {
		return nil, err
	}
	return vm.consoleFrom(r.ConsoleOffset)
}

// rotateConsole keeps the log from growing without bound over many starts.
func (vm *VM) rotateConsole() (offset int64, err error) {
	info, err := os.Stat(vm.path("console.log"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if info.Size() < maxConsoleBytes {
		return info.Size(), nil
	}
	return 0, os.Rename(vm.path("console.log"), vm.path("console.log.1"))
}

// tailLines returns the last lines of a console for a person to read.
func tailLines(console []byte, n int) string {
	lines := cleanLines(console[max(0, len(console)-64<<10):])
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// cleanLines returns the lines that say something, without escape sequences
// and other control characters: those could do things to the terminal on which
// they are shown.
func cleanLines(console []byte) []string {
	var lines []string
	for line := range bytes.Lines(console) {
		if text := strings.TrimRightFunc(printable(line), unicode.IsSpace); text != "" {
			lines = append(lines, text)
		}
	}
	return lines
}

var escapeRE = regexp.MustCompile("\x1b(\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(\x07|\x1b\\\\)?|[@-Z\\\\^_c])")

func printable(line []byte) string {
	clean := escapeRE.ReplaceAllString(strings.ToValidUTF8(string(line), "?"), "")
	return strings.Map(func(r rune) rune {
		if r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, clean)
}

// Attach joins in and out with the machine's serial console until the machine
// ends or ctx is done; the end of in alone ends nothing. What was printed last
// comes first. One client at a time: QEMU serves no more.
func (vm *VM) Attach(ctx context.Context, in io.Reader, out io.Writer) error {
	if _, ok := vm.Run(); !ok {
		return fmt.Errorf("machine %s does not run: its console's log is %s", vm.name, vm.path("console.log"))
	}
	release, err := vm.claimConsole()
	if err != nil {
		return err
	}
	defer release()
	conn, err := dialUnix(ctx, vm.path("console.sock"))
	if err != nil {
		return fmt.Errorf("reach the console of machine %s: %w", vm.name, err)
	}
	defer conn.Close()
	if log, err := vm.ConsoleLog(); err == nil {
		fmt.Fprint(out, strings.ReplaceAll(tailLines(log, 20), "\n", "\r\n"), "\r\n")
	}
	// The input cannot be interrupted: when the console ends first, this one
	// ends with the next key or with the program.
	go func() { _, _ = io.Copy(conn, in) }()
	ended := make(chan error, 1)
	go func() { _, err := io.Copy(out, conn); ended <- err }()
	select {
	case err = <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}

// claimConsole makes sure that nobody else is attached.
func (vm *VM) claimConsole() (release func(), err error) {
	f, err := os.OpenFile(vm.path("console.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("claim the console of machine %s: %w", vm.name, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("the console of machine %s is in use by another `wherry vm console`", vm.name)
	}
	return func() { f.Close() }, nil
}
