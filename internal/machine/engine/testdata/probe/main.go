// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Probe is the one program of the image that the engine's tests run: its first
// argument says what it does.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	args := append(os.Args[1:], "", "", "")
	number := func(i int) int { n, _ := strconv.Atoi(args[i]); return n }
	switch args[0] {
	case "exit":
		os.Exit(number(1))
	case "sleep": // until SIGTERM, then exit 0
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("ready")
		<-c
		fmt.Println("bye")
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
		time.Sleep(time.Hour)
	case "lines": // lines N PAUSEms
		for i := range number(1) {
			fmt.Println("line", i)
			time.Sleep(time.Duration(number(2)) * time.Millisecond)
		}
	case "flood":
		flood()
	case "later": // later MS CODE
		time.Sleep(time.Duration(number(1)) * time.Millisecond)
		fmt.Println("it is late")
		os.Exit(number(2))
	case "eat": // eat MB
		var all [][]byte
		for range number(1) {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			all = append(all, b)
		}
		fmt.Println("ate", len(all))
		time.Sleep(time.Duration(number(2)) * time.Millisecond)
	case "burn": // burn MS
		for end := time.Now().Add(time.Duration(number(1)) * time.Millisecond); time.Now().Before(end); {
		}
	case "both":
		fmt.Println("to out")
		fmt.Fprintln(os.Stderr, "to err")
		os.Exit(number(1))
	case "cat":
		io.Copy(os.Stdout, os.Stdin)
		fmt.Println("end of input")
	case "id":
		groups, _ := os.Getgroups()
		wd, _ := os.Getwd()
		host, _ := os.Hostname()
		fmt.Println(os.Getuid(), os.Getgid(), groups, wd, host, os.Getenv("HOME"), os.Getenv("FOO"))
	case "setproject": // FS_IOC_FSSETXATTR with the given upper bits
		f, err := os.Open("/")
		check(err)
		var attr [28]byte
		_, _, e := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), uintptr(number(1))<<32|0x401c5820, uintptr(unsafe.Pointer(&attr)))
		fmt.Println("fssetxattr:", e == syscall.EPERM)
		_, _, e = syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), 0x801c581f, uintptr(unsafe.Pointer(&attr)))
		fmt.Println("fsgetxattr:", e == syscall.EPERM)
	case "health":
		if _, err := os.Stat("/sick"); err == nil {
			fmt.Println("sick")
			os.Exit(1)
		}
		fmt.Println("well")
	case "winsize":
		ws := waitSize(uint16(number(1)))
		fmt.Printf("%d columns\n", ws)
	case "ask":
		fmt.Print("name? ")
		s, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		fmt.Println("hello", strings.TrimSpace(s))
	default:
		files(args)
	}
}

// flood writes lines to both streams as fast as they are taken, until SIGTERM.
func flood() {
	var over atomic.Bool
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	go func() { <-c; over.Store(true) }()
	var both sync.WaitGroup
	for s, f := range []*os.File{os.Stdout, os.Stderr} {
		both.Go(func() {
			i := 0
			for ; !over.Load(); i++ {
				fmt.Fprintf(f, "stream %d line %d %s\n", s, i, strings.Repeat("-", i*7919%211))
			}
			fmt.Fprintf(f, "stream %d: %d lines\n", s, i)
		})
	}
	both.Wait()
}

// files does what concerns the container's files.
func files(args []string) {
	switch args[0] {
	case "status":
		b, _ := os.ReadFile("/proc/self/status")
		os.Stdout.Write(b)
	case "read":
		b, err := os.ReadFile(args[1])
		os.Stdout.Write(b)
		check(err)
	case "write":
		check(os.WriteFile(args[1], []byte(args[2]), 0o644))
	case "ls":
		d, err := os.ReadDir(args[1])
		check(err)
		for _, e := range d {
			fmt.Println(e.Name())
		}
	default:
		fmt.Fprintln(os.Stderr, "unknown", args[0])
		os.Exit(64)
	}
}

func waitSize(want uint16) uint16 {
	var ws [4]uint16
	for range 100 {
		syscall.Syscall(syscall.SYS_IOCTL, 0, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&ws)))
		if ws[1] == want {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return ws[1]
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
