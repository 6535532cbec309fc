// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package pclntab

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// crasher uses the runtime's ways to look at a stack: growth, collection,
// deferred calls, recovered panics, inlined calls, and at last a crash.
const crasher = `package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
)

type own struct{ n int }

func deep(n int) int {
	var room [256]byte
	room[n%256] = 1
	if n == 0 {
		runtime.GC()
		return int(room[0])
	}
	return deep(n-1) + int(room[n%256])
}

func recovered() (s string) {
	defer func() { s = fmt.Sprint(recover()) }()
	var p *own
	return fmt.Sprint(p.n)
}

func main() {
	fmt.Println(deep(5000), recovered())
	_, file, line, ok := runtime.Caller(0)
	fmt.Println(strings.HasSuffix(file, "main.go"), line > 0, ok)
	if len(os.Args) > 1 {
		strings.Map(func(r rune) rune { panic("crash") }, "x")
	}
}
`

func build(t *testing.T) []byte {
	t.Helper()
	return link(t, map[string]string{"main.go": crasher, "go.mod": "module crasher.example\n\ngo 1.26\n"}, "-s -w")
}

// link builds a program of these files, with these flags for the linker.
func link(t *testing.T, files map[string]string, flags string) []byte {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags="+flags, "-o", "out", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// run starts the program, with an argument when it shall crash.
func run(t *testing.T, program []byte, args ...string) string {
	t.Helper()
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("runs a Linux program")
	}
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, program, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(file, args...)
	cmd.Env = append(os.Environ(), "GOTRACEBACK=all", "GODEBUG=gcstoptheworld=1")
	out, err := cmd.CombinedOutput()
	if (err != nil) != (len(args) > 0) {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

func ofMain(function string) bool { return strings.HasPrefix(function, "main.") }

func TestProgramRunsWithoutLines(t *testing.T) {
	b := build(t)
	want := run(t, b)
	dropped, err := DropLines(b, ofMain)
	if err != nil || dropped < 10_000 {
		t.Fatalf("dropped %d bytes, %v", dropped, err)
	}
	if got := run(t, b); got != want || !strings.Contains(got, "true true true") {
		t.Errorf("it says %q, and with lines %q", got, want)
	}
	trace := run(t, b, "crash")
	for _, frame := range []string{
		`panic: crash`,
		`main\.main\.func1\(.*\n\t\S*main\.go:33 \+0x`,
		`strings\.Map\(.*\n\t\?:0 \+0x`,
		`main\.main\(\)\n\t\S*main\.go:33 \+0x`,
	} {
		if !regexp.MustCompile(frame).MatchString(trace) {
			t.Errorf("the trace lacks %s:\n%s", frame, trace)
		}
	}
	if again, err := DropLines(b, ofMain); err != nil || again != 0 {
		t.Errorf("a second time dropped %d bytes, %v", again, err)
	}
}

// TestOnlyTheTableChanges compares everything outside of the section.
func TestOnlyTheTableChanges(t *testing.T) {
	b := build(t)
	after := bytes.Clone(b)
	if _, err := DropLines(after, func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	s := f.Section(".gopclntab")
	if !bytes.Equal(b[:s.Offset], after[:s.Offset]) || !bytes.Equal(b[s.Offset+s.Size:], after[s.Offset+s.Size:]) {
		t.Error("something else changed")
	}
	all := bytes.Clone(b)
	if n, err := DropLines(all, func(string) bool { return true }); err != nil || n != 0 || !bytes.Equal(all, b) {
		t.Errorf("with everything kept, %d bytes changed, %v", n, err)
	}
}

func TestRefuses(t *testing.T) {
	good := build(t)
	f, err := elf.NewFile(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	at := int(f.Section(".gopclntab").Offset)
	funcs := at + int(binary.LittleEndian.Uint64(good[at+64:]))
	tables := at + int(binary.LittleEndian.Uint64(good[at+56:]))
	for name, change := range map[string]func([]byte){
		"other magic":         func(b []byte) { b[at] = 0xf0 },
		"other pointer size":  func(b []byte) { b[at+7] = 4 },
		"no functions":        func(b []byte) { clear(b[at+8 : at+16]) },
		"too many functions":  func(b []byte) { b[at+15] = 0x7f },
		"order of parts":      func(b []byte) { b[at+64], b[at+65], b[at+66] = 0, 0, 0 },
		"record far away":     func(b []byte) { b[funcs+7] = 0xff },
		"record of another":   func(b []byte) { b[funcs+8+4] ^= 0x10 },
		"tables without ends": func(b []byte) { copy(b[tables+1:], bytes.Repeat([]byte{0x81}, 64)) },
		"not ELF":             func(b []byte) { b[0] = 0 },
	} {
		b := bytes.Clone(good)
		change(b)
		before := bytes.Clone(b)
		if _, err := DropLines(b, ofMain); err == nil {
			t.Errorf("%s: no error", name)
		}
		if !bytes.Equal(b, before) {
			t.Errorf("%s: the program was changed", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	header := binary.LittleEndian.AppendUint32(nil, magic)
	header = append(header, 0, 0, 1, 8)
	for _, v := range []uint64{1, 1, 0, 72, 74, 74, 74, 80} {
		header = binary.LittleEndian.AppendUint64(header, v)
	}
	f.Add(append(header, make([]byte, 120)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		tab, err := parse(b)
		if err != nil {
			return
		}
		size := len(tab.data)
		if n, err := tab.drop(func(name string) bool { return len(name)%2 == 0 }); err == nil && n > size {
			t.Errorf("%d of %d bytes dropped", n, size)
		}
	})
}
