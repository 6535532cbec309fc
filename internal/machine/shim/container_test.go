// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestExitCodesAndOutput(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		args     []string
		code     int
		out, err string
	}{
		{[]string{"true"}, 0, "", ""},
		{[]string{"exit", "7"}, 7, "", ""},
		{[]string{"both", "2"}, 0, "out 1\nout 2\n", "err 1\nerr 2\n"},
		{[]string{"spam", "3000"}, 0, "line 3000\n", ""},
	} {
		b := w.run(c.args...)
		if code := b.wait(); code != c.code {
			t.Errorf("%v ended with %d", c.args, code)
		}
		if out := b.out.all(); !strings.HasSuffix(out, c.out) {
			t.Errorf("%v said %q", c.args, out)
		}
		if out := b.err.all(); out != c.err {
			t.Errorf("%v said on stderr %q", c.args, out)
		}
		if s := b.state(); s.Status != tasktypes.Status_STOPPED || s.ExitStatus != uint32(c.code) || time.Since(s.ExitedAt.AsTime()) > time.Minute {
			t.Errorf("%v: state %v", c.args, s)
		}
		w.must(b.delete())
		if err := b.delete(); !errdefs.IsNotFound(err) {
			t.Errorf("the second delete said %v", err)
		}
	}
	w.checkNothingLeft()
}

// checkNothingLeft looks at what containers leave on a host.
func (w *world) checkNothingLeft() {
	w.t.Helper()
	for _, pattern := range []string{w.shimDir() + "/containers/*", w.shimDir() + "/tasks/*", "/sys/fs/cgroup" + w.group() + "/*/"} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			w.t.Errorf("left over: %v", left)
		}
	}
	mounts, _ := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", w.pid))
	if strings.Contains(string(mounts), w.dir+"/root") {
		w.t.Errorf("a mount is left: %s", mounts)
	}
	for _, p := range w.children() {
		w.t.Errorf("the shim still has the child %s", p)
	}
}

// children lists the shim's, zombies included.
func (w *world) children() []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", w.pid, w.pid))
	w.must(err)
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", w.pid))
	for _, f := range tasks {
		more, _ := os.ReadFile(f) // a thread may end meanwhile
		b = append(append(b, ' '), more...)
	}
	return strings.Fields(string(b))
}

func TestSignals(t *testing.T) {
	w := newWorld(t)
	for sig, want := range map[unix.Signal]int{unix.SIGKILL: 137, unix.SIGTERM: 143, unix.SIGUSR1: 42} {
		b := w.run("signal", "USR1", "42")
		if sig == unix.SIGTERM {
			b = w.run("sleep", "inf")
			b.started()
		} else {
			time.Sleep(200 * time.Millisecond)
		}
		w.must(b.kill(sig, false))
		if code := b.wait(); code != want {
			t.Errorf("after %v the code is %d", sig, code)
		}
		if err := b.kill(unix.SIGKILL, false); !errdefs.IsNotFound(err) {
			t.Errorf("a signal to the dead: %v", err)
		}
		w.must(b.delete())
	}
}

// started waits until the program handles its signals; it says nothing.
func (b *box) started() {
	b.w.t.Helper()
	pid := b.state().Pid
	b.w.eventually("a handler", func() bool {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		_, mask, _ := strings.Cut(string(text), "SigCgt:\t")
		name, _, _ := strings.Cut(string(text), "\n")
		return strings.Contains(name, "toybox") && len(mask) > 16 && mask[12:16] != "0000"
	})
}

func TestStates(t *testing.T) {
	w := newWorld(t)
	id := w.newID()
	b, err := w.create(w.spec(id, "sleep", "inf"), id)
	w.must(err)
	if s := b.state(); s.Status != tasktypes.Status_CREATED || s.Pid == 0 {
		t.Errorf("after create: %v", s)
	}
	if _, err := w.create(w.spec(id, "true"), id+"x"); err != nil {
		t.Log(err) // the same cgroup is in use
	}
	if err := b.delete(); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete of a created one: %v", err)
	}
	w.must(b.start())
	if err := b.start(); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("second start: %v", err)
	}
	if s := b.state(); s.Status != tasktypes.Status_RUNNING {
		t.Errorf("after start: %v", s)
	}
	_, err = w.api.Pause(w.ctx(), &taskapi.PauseRequest{ID: id})
	w.must(err)
	if s := b.state(); s.Status != tasktypes.Status_PAUSED {
		t.Errorf("after pause: %v", s)
	}
	x, err := b.addExec("x", false, "/toybox", "true")
	w.must(err)
	if err := x.start(); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("an exec in a paused one: %v", err)
	}
	_, err = w.api.Resume(w.ctx(), &taskapi.ResumeRequest{ID: id})
	w.must(err)
	if s := b.state(); s.Status != tasktypes.Status_RUNNING {
		t.Errorf("after resume: %v", s)
	}
	w.must(x.start())
	x.wait()
	p, err := w.api.Pids(w.ctx(), &taskapi.PidsRequest{ID: id})
	w.must(err)
	if len(p.Processes) != 1 || p.Processes[0].Pid != b.state().Pid {
		t.Errorf("pids: %v", p)
	}
	b.end()
	w.checkNothingLeft()
}

func TestKillBeforeStart(t *testing.T) {
	w := newWorld(t)
	id := w.newID()
	b, err := w.create(w.spec(id, "sleep", "inf"), id)
	w.must(err)
	w.must(b.kill(unix.SIGKILL, false))
	if code := b.wait(); code != 137 {
		t.Errorf("code %d", code)
	}
	if err := b.start(); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("start of a dead one: %v", err)
	}
	w.must(b.delete())
	w.checkNothingLeft()
}

func TestStartErrorsKeepTheirWords(t *testing.T) {
	w := newWorld(t)
	for want, change := range map[string]func(*specs.Spec){
		`exec: "/none": stat /none: no such file or directory`: func(s *specs.Spec) { s.Process.Args = []string{"/none"} },
		`exec: "none": executable file not found in $PATH`:     func(s *specs.Spec) { s.Process.Args = []string{"none"} },
		`exec: "/text": permission denied`:                     func(s *specs.Spec) { s.Process.Args = []string{"/text"} },
		`exec: "/tmp": is a directory`:                         func(s *specs.Spec) { s.Process.Args = []string{"/tmp"} },
		`/nowhere`: func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp", Type: "bind", Source: "/nowhere", Options: []string{"bind"}})
		},
	} {
		id := w.newID()
		spec := w.spec(id, "true")
		change(spec)
		_, err := w.create(spec, id)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %s, got %v", want, err)
		}
	}
	w.checkNothingLeft()
}

func TestStdinStaysOpenUntilClosed(t *testing.T) {
	w := newWorld(t)
	b := w.run("cat")
	b.stdin.WriteString("one\n")
	b.untilOutput("one\n")
	b.stdin.Close() // the caller's death
	time.Sleep(100 * time.Millisecond)
	if s := b.state(); s.Status != tasktypes.Status_RUNNING {
		t.Fatalf("without a writer the container is %v", s.Status)
	}
	again, err := os.OpenFile(b.io.Stdin, os.O_RDWR|unix.O_NONBLOCK, 0)
	w.must(err)
	b.stdin = again
	b.stdin.WriteString("two\n")
	b.closeStdin()
	if code := b.wait(); code != 0 || b.out.all() != "one\ntwo\n" {
		t.Errorf("code %d, output %q", code, b.out.all())
	}
	w.must(b.delete())
}

// TestOutputOutlivesEverybody: nobody reads while the container runs and after its end.
func TestOutputOutlivesEverybody(t *testing.T) {
	w := newWorld(t)
	id := w.newID()
	b, err := w.create(w.spec(id, "spam", "1000"), id)
	w.must(err)
	w.must(b.start())
	if code := b.wait(); code != 0 {
		t.Fatalf("code %d", code)
	}
	b.open()
	if out := b.out.all(); !strings.HasSuffix(out, "line 1000\n") {
		t.Errorf("output of %d bytes", len(out))
	}
	w.must(b.delete())
}

func TestStdioOfOtherUsers(t *testing.T) {
	w := newWorld(t)
	id := w.newID()
	spec := w.spec(id, "append", "/proc/self/fd/1", "reopened")
	spec.Process.User = specs.User{UID: 1234, GID: 1234}
	b := w.runSpec(id, spec)
	if code := b.wait(); code != 0 || b.out.all() != "reopened\n" {
		t.Errorf("code %d, %q, %q", code, b.out.all(), b.err.all())
	}
	w.must(b.delete())
}

func TestMemoryPreferenceIsNotInherited(t *testing.T) {
	w := newWorld(t)
	w.must(os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", w.pid), []byte("500"), 0))
	b := w.run("cat", "/proc/self/oom_score_adj", "/proc/self/status")
	b.wait()
	out := b.out.all()
	if !strings.HasPrefix(out, "0\n") {
		t.Errorf("oom_score_adj is %.10q", out)
	}
	for _, line := range []string{"SigBlk:\t0000000000000000", "Seccomp:\t2"} {
		if !strings.Contains(out, line) {
			t.Errorf("no line %q in %s", line, out)
		}
	}
	own, err := os.ReadFile("/proc/self/status")
	w.must(err)
	if got, mine := ignoredSignals(t, out), ignoredSignals(t, string(own)); got&^mine != 0 {
		t.Errorf("the container ignores signals %x, of which this test was started with %x", got, mine)
	}
	w.must(b.delete())
}

// ignoredSignals reads the mask of a process's status.
func ignoredSignals(t *testing.T, status string) uint64 {
	t.Helper()
	_, rest, _ := strings.Cut(status, "SigIgn:\t")
	mask, err := strconv.ParseUint(rest[:min(16, len(rest))], 16, 64)
	if err != nil {
		t.Fatalf("no mask of ignored signals in %s", status)
	}
	return mask
}

func TestHostPidsEndTogether(t *testing.T) {
	w := newWorld(t)
	id := w.newID()
	spec := w.spec(id, "fork", "3")
	spec.Linux.Namespaces = spec.Linux.Namespaces[:1]
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	b := w.runSpec(id, spec)
	b.untilOutput("forked 3")
	w.must(b.kill(unix.SIGKILL, false))
	b.wait()
	procs, err := os.ReadFile("/sys/fs/cgroup" + w.group() + "/" + id + "/cgroup.procs")
	w.must(err)
	for _, pid := range strings.Fields(string(procs)) {
		if st, err := os.ReadFile("/proc/" + pid + "/stat"); err == nil && !strings.Contains(string(st), ") Z ") {
			// killed, though not gone yet
			w.eventually("its end", func() bool { _, err := os.Stat("/proc/" + pid); return err != nil })
		}
	}
	b.out.all()
	w.must(b.delete())
	w.checkNothingLeft()
}
