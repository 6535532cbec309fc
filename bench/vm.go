// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// vmSpec is a machine under measurement. Everything that is not named here is
// the same for all systems.
type vmSpec struct {
	name      string
	kernel    string
	initramfs string
	cmdline   string
	disk      string // qcow2
	forwards  []string
	config    string // file for fw_cfg opt/wherry/config
}

// vm is a QEMU that records its instruction stream: -icount with rr=record
// makes the count of executed instructions independent of the host's load.
// Waiting costs no instructions, so these figures say nothing of sleeps.
type vm struct {
	dir    string
	cmd    *exec.Cmd
	stderr bytes.Buffer
	exited chan struct{}

	qmp *qmp

	mu      sync.Mutex
	marks   []byte
	console bytes.Buffer
	changed chan struct{}
}

const memoryMiB = 512

func startVM(ctx context.Context, dir string, s vmSpec) (*vm, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	v := &vm{dir: dir, exited: make(chan struct{}), changed: make(chan struct{})}
	listen := func(name string) (net.Listener, error) {
		path := filepath.Join(dir, name)
		os.Remove(path)
		return net.Listen("unix", path)
	}
	marks, err := listen("marks")
	if err != nil {
		return nil, err
	}
	defer marks.Close()
	serial, err := listen("serial")
	if err != nil {
		return nil, err
	}
	defer serial.Close()
	v.cmd = exec.CommandContext(ctx, "qemu-system-x86_64", v.args(s)...)
	v.cmd.Stderr = &v.stderr
	if err := v.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start qemu-system-x86_64: %w", err)
	}
	go func() { v.cmd.Wait(); close(v.exited) }()
	if err := v.connect(marks, serial); err != nil {
		v.kill()
		return nil, fmt.Errorf("%s: %w: %s", s.name, err, v.stderr.String())
	}
	return v, nil
}

func (v *vm) args(s vmSpec) []string {
	socket := func(name string) string { return "path=" + filepath.Join(v.dir, name) }
	user := "user,id=net"
	for _, f := range s.forwards {
		user += ",hostfwd=" + f
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "q35,sata=off", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", fmt.Sprint(memoryMiB),
		"-icount", "shift=0,rr=record,rrfile=" + filepath.Join(v.dir, "replay"),
		"-rtc", "base=2026-11-20,clock=vm", "-seed", "1",
		"-kernel", s.kernel, "-initrd", s.initramfs, "-append", s.cmdline,
		"-chardev", "socket,id=marks," + socket("marks"), "-device", fmt.Sprintf("isa-debugcon,iobase=%#x,chardev=marks", markPort),
		"-chardev", "socket,id=serial," + socket("serial"), "-serial", "chardev:serial",
		"-qmp", "unix:" + filepath.Join(v.dir, "qmp") + ",server=on,wait=off",
		"-drive", "if=none,id=image,format=qcow2,file=" + s.disk,
		"-drive", "driver=blkreplay,if=none,image=image,id=disk", "-device", "virtio-blk-pci,drive=disk",
		"-netdev", user, "-object", "filter-replay,id=replay,netdev=net", "-device", "virtio-net-pci,netdev=net,romfile=",
	}
	if s.config != "" {
		args = append(args, "-fw_cfg", "name=opt/wherry/config,file="+s.config)
	}
	return args
}

func (v *vm) connect(marks, serial net.Listener) error {
	var conns [2]net.Conn
	for i, l := range []net.Listener{marks, serial} {
		l.(*net.UnixListener).SetDeadline(time.Now().Add(20 * time.Second))
		c, err := l.Accept()
		if err != nil {
			return fmt.Errorf("QEMU did not start: %w", err)
		}
		conns[i] = c
	}
	go v.read(conns[0], func(b []byte) { v.marks = append(v.marks, b...) })
	go v.read(conns[1], func(b []byte) { v.console.Write(b) })
	q, err := dialQMP(filepath.Join(v.dir, "qmp"))
	v.qmp = q
	return err
}

func (v *vm) read(c net.Conn, add func([]byte)) {
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		v.mu.Lock()
		add(buf[:n])
		close(v.changed)
		v.changed = make(chan struct{})
		v.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// until waits for something to be true of what the machine has said so far.
func (v *vm) until(ctx context.Context, what string, ok func(marks, console string) bool) error {
	for {
		v.mu.Lock()
		done, changed := ok(string(v.marks), v.console.String()), v.changed
		v.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-v.exited:
			return fmt.Errorf("QEMU ended before %s: %s\n%s", what, v.stderr.String(), v.tail())
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w\n%s", what, ctx.Err(), v.tail())
		}
	}
}

func (v *vm) tail() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	lines := strings.Split(v.console.String(), "\n")
	return strings.Join(lines[max(0, len(lines)-25):], "\n")
}

// said returns everything on the console so far.
func (v *vm) said() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.console.String()
}

// mark waits until the n-th mark c was written and returns the instructions
// executed since reset.
func (v *vm) mark(ctx context.Context, c string, n int) (uint64, error) {
	err := v.until(ctx, fmt.Sprintf("mark %s number %d", c, n), func(marks, _ string) bool { return strings.Count(marks, c) >= n })
	if err != nil {
		return 0, err
	}
	return v.instructions()
}

// instructions returns the count since reset.
func (v *vm) instructions() (uint64, error) {
	var r struct {
		Icount uint64 `json:"icount"`
	}
	return r.Icount, v.qmp.call("query-replay", &r)
}

func (v *vm) kill() {
	v.cmd.Process.Kill()
	<-v.exited
}

// qmp is QEMU's machine protocol: one JSON object a line.
type qmp struct {
	c net.Conn
	r *bufio.Reader
}

func dialQMP(path string) (*qmp, error) {
	c, err := net.Dial("unix", path)
	for deadline := time.Now().Add(20 * time.Second); err != nil && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond) // QEMU opens it after the other sockets
		c, err = net.Dial("unix", path)
	}
	if err != nil {
		return nil, err
	}
	q := &qmp{c, bufio.NewReader(c)}
	if _, err := q.r.ReadBytes('\n'); err != nil { // greeting
		return nil, err
	}
	return q, q.call("qmp_capabilities", nil)
}

func (q *qmp) call(command string, result any) error {
	if _, err := fmt.Fprintf(q.c, "{\"execute\":%q}\n", command); err != nil {
		return err
	}
	for {
		line, err := q.r.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("QMP %s: %w", command, err)
		}
		var reply struct {
			Return json.RawMessage `json:"return"`
			Error  *struct {
				Desc string `json:"desc"`
			} `json:"error"`
		}
		if err := json.Unmarshal(line, &reply); err != nil {
			return fmt.Errorf("QMP %s: %w", command, err)
		}
		if reply.Error != nil {
			return errors.New("QMP " + command + ": " + reply.Error.Desc)
		}
		if reply.Return == nil { // an event
			continue
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(reply.Return, result)
	}
}
