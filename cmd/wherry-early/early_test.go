// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"wherry.example/wherry/internal/host/component"
)

// build makes the program as images have it.
func build(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "init")
	b := component.Builder{Source: "../..", Cache: t.TempDir(), Arch: "amd64", Progress: func(said string) { t.Error(said) }}
	if _, err := b.Program(t.Context(), "wherry-early", "1.0.0", file); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestRunsWithoutRuntime starts it as images have it: once as what it is not, and
// once as the first process of a container in which there is nothing.
func TestRunsWithoutRuntime(t *testing.T) {
	file := build(t)
	out, err := exec.Command(file).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "first process") {
		t.Errorf("not as PID 1: %v: %s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/init")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot:      filepath.Dir(file),
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
	}
	cmd.Dir = "/"
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); errors.Is(err, syscall.EPERM) {
		t.Skipf("no user namespaces here: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it stays for half a minute: the context ends it
	want := `wherry: boot failed: kernel file systems: mount /dev: it does not exist (error 2)
The kernel lacks devtmpfs, proc or sysfs: Wherry needs a distribution's kernel.
The machine restarts in 30 seconds; wherry.onfail=halt on the kernel's command line keeps it here.
`
	if said.String() != want {
		t.Errorf("it said:\n%s", said.String())
	}
}

// TestIsSmall holds it to what it is for.
func TestIsSmall(t *testing.T) {
	program, err := os.ReadFile(build(t))
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(program); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if packed.Len() > 90_000 {
		t.Errorf("%d bytes packed", packed.Len())
	}
}

// outside is a name in the code that is not of this package.
var outside = regexp.MustCompile(`\b(runtime|internal|syscall|type|go)[:./][^(\t ]*\(SB\)`)

// TestCallsNothing reads the machine code: what is not of this package is not
// there when the program runs. Growing the stack is in each function and never done.
func TestCallsNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "init")
	cmd := exec.Command("go", "build", "-o", file, "-ldflags=-E=main.entry", ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	code, err := exec.Command("go", "tool", "objdump", "-s", `^main\.`, file).Output()
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(code), "runtime.morestack_noctxt.abi0(SB)", "")
	if !strings.Contains(text, "CALL main.call") || strings.Count(text, "TEXT main.") < 20 {
		t.Fatal("this is not the program's code")
	}
	for line := range strings.Lines(text) {
		if outside.MatchString(line) {
			t.Error(strings.TrimSpace(line))
		}
	}
}

func TestFlags(t *testing.T) {
	for cmdline, want := range map[string]flags{
		"":                                   {},
		"console=ttyS0 quiet\n":              {},
		"wherry.debug":                       {debug: true},
		"wherry.debug=1 wherry.onfail=halt":  {debug: true, onFail: onFailHalt},
		"wherry.debug=0":                     {},
		"wherry.debug wherry.debug=0":        {},
		"wherry.onfail=poweroff":             {onFail: onFailOff},
		"wherry.onfail=halt wherry.onfail=x": {onFail: onFailHalt},
		"wherry.onfail=halt\twherry.onfail=reboot\x00wherry.debug": {debug: true},
		`"wherry.onfail=halt"`:                      {onFail: onFailHalt},
		`wherry.onfail="halt"`:                      {onFail: onFailHalt},
		`x="wherry.debug wherry.onfail=halt"`:       {},
		"wherry.debugger wherry. =halt wherry":      {},
		`"wherry.debug`:                             {debug: true},
		strings.Repeat("x", 5000) + " wherry.debug": {debug: true},
		"wherry.debug" + strings.Repeat("x", 5000):  {},
	} {
		var got flags
		if got.read([]byte(cmdline)); got != want {
			t.Errorf("%.60s: %+v, want %+v", cmdline, got, want)
		}
	}
}

// FuzzFlags: nothing breaks it, and without our prefix nothing changes.
func FuzzFlags(f *testing.F) {
	f.Add(`console=ttyS0 wherry.debug a="b c" -- wherry.onfail=halt`)
	f.Fuzz(func(t *testing.T, s string) {
		var got flags
		got.read([]byte(s))
		if !strings.Contains(s, "wherry") && !strings.Contains(s, `"`) && got != (flags{}) {
			t.Errorf("%q set %+v", s, got)
		}
	})
}

func TestLine(t *testing.T) {
	var l, other line
	l.add("loop")
	l.number(1234567890)
	l.number(0)
	other.add("/dev/")
	other.addLine(&l)
	if got := string(other.text[:other.n]); got != "/dev/loop12345678900" {
		t.Errorf("got %q", got)
	}
	if !other.begins("/dev/") || other.begins("/dev/loops") || other.is("/dev/") || !other.is("/dev/loop12345678900") {
		t.Error("a text is not what it is")
	}
	l.add(strings.Repeat("x", 1000))
	if l.n != uint(len(l.text)) || l.begins(strings.Repeat("l", 1000)) {
		t.Errorf("a text of %d bytes", l.n)
	}
}

func TestErrno(t *testing.T) {
	for result, want := range map[int]uintptr{0: 0, 5: 0, -1: 1, -4095: 4095, -4096: 0} {
		if got := errno(uintptr(result)); got != want {
			t.Errorf("%d is error %d, want %d", result, got, want)
		}
	}
}
